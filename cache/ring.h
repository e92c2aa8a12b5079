/*
 * File I/O that nobody waits for: an io_uring and the thread that reaps it.
 *
 * Where io_uring is not to be had (an old kernel, a seccomp or sysctl policy,
 * or SLUICE_NO_IO_URING=1 in the environment) two threads do the same with
 * ordinary system calls.
 */
#ifndef SLUICE_CACHE_RING_H
#define SLUICE_CACHE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/error.h"

enum ring_operation {
    RING_READ,
    RING_WRITE,
    RING_SYNC, /* until the disk has the file's bytes, or an error tells that it has not */
    RING_DROP, /* takes the range out of the page cache */
};

struct ring_request;
/* `result`: bytes read or written (short only at the end of the file), 0 for the other operations,
 * or a negative errno. Runs on the ring's thread and must not wait; may submit, and may free
 * `request`. */
typedef void ring_done(struct ring_request *request, ssize_t result);

/* Filled by the caller but for `link`, and the caller's to keep until `done` is called. */
struct ring_request {
    enum ring_operation operation;
    int descriptor;
    void *data;
    size_t length;
    uint64_t offset;
    ring_done *done;
    size_t completed; /* bytes of it that are done: 0, or what was read otherwise before */
    /* the ring's own */
    STAILQ_ENTRY(ring_request) link;
};

struct ring;
int ring_new(struct ring **ret, struct error **error);
/* Waits for what was submitted. NULL is fine. */
void ring_free(struct ring *ring);
bool ring_uses_io_uring(const struct ring *ring);
/* Any thread; never fails and never waits for the I/O. */
void ring_submit(struct ring *ring, struct ring_request *request);

#endif
