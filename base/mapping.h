/*
 * Mappings of files that survive the file.
 *
 * What a disk cannot read, or what somebody cut off a file after it was mapped, the kernel reports
 * by SIGBUS, which ends the process. A mapping made here turns, as a whole, into memory that is its
 * own and reads as zeros, and says that it is damaged from then on. So who has read something looks
 * at mapping_is_damaged() afterwards, and believes what was read only if it says no.
 *
 * The kernel ends a process for a SIGBUS that its thread blocks: threads that touch a mapping must
 * not. A system call that is given such a page answers EFAULT instead, and the mapping does not get
 * to know: copy what goes into a system call.
 *
 * The first mapping installs a handler for SIGBUS. Where the address is in no mapping, what was
 * installed before it is called, or the process ends as it would have.
 */
#ifndef SLUICE_BASE_MAPPING_H
#define SLUICE_BASE_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct mapping;

enum mapping_access {
    MAPPING_READ_ONLY,
    MAPPING_READ_WRITE, /* shared with every process that maps the file */
};

/* The first `length` bytes (not 0) of the file, which need not be kept open. The file may be
 * shorter than that, now or later. */
int mapping_new(struct mapping **ret, int descriptor, size_t length, enum mapping_access access,
                struct error **error);
/* Unmaps. NULL is fine. No other thread may be reading in it. */
void mapping_free(struct mapping *mapping);

/* Writable where the mapping is. */
void *mapping_data(const struct mapping *mapping);
size_t mapping_length(const struct mapping *mapping);
/* Any thread. Once true, always true. */
bool mapping_is_damaged(const struct mapping *mapping);
/* Takes a descriptor of the mapped file over, for whoever wants the file and not its name, behind
 * which there may be another one by now; one of another file is closed. */
void mapping_keep_file(struct mapping *mapping, int descriptor);
/* The mapping's own; -1: none was kept. */
int mapping_file(const struct mapping *mapping);

#endif
