/* What the tar reader and its PAX half share. */
#ifndef SLUICE_INDEX_TAR_INTERNAL_H
#define SLUICE_INDEX_TAR_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "index/entry_table.h"

/* A PAX extended header, or a GNU long name, takes no more than this. */
#define TAR_META_BYTES_MAX (1u << 20)
/* Records that mean something, in one header and in all global ones together; real files have a
 * handful. */
#define TAR_RECORDS_MAX 256

/* The records of PAX headers that mean something to us. A zeroed struct holds none. */
struct pax_record {
    size_t key, value; /* offsets into `storage`; both end in NUL there */
    size_t key_length, value_length;
};

struct pax_records {
    struct buffer storage;
    struct pax_record *records;
    size_t count, capacity;
};

void pax_records_free(struct pax_records *pax);
void pax_records_clear(struct pax_records *pax);
/* Adds the records of one header's data; a key that is there already is replaced. On failure `pax`
 * is to be cleared. */
int pax_records_parse(struct pax_records *pax, const void *data, size_t length,
                      struct error **error);

/* One header as it is understood so far: the header block, then PAX global and local, then GNU
 * long names. Texts are borrowed from where they were found. */
struct tar_header {
    char type;
    const char *name, *link;
    uint32_t mode;
    uint32_t uid, gid;
    uint64_t size;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t device_major, device_minor;
    bool sparse;
    struct entry_xattr *xattrs; /* room for 2 * TAR_RECORDS_MAX */
    size_t xattr_count;
};

/* Lets the records speak, those of `local` over those of `global`. */
int pax_records_apply(const struct pax_records *global, const struct pax_records *local,
                      struct tar_header *header, struct error **error);

#endif
