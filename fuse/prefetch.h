/*
 * Fetches what a profile names before somebody asks for it: the data path's supply of that kind.
 * A profile is a hint from outside; what it can cost is bytes, up to a limit.
 */
#ifndef SLUICE_FUSE_PREFETCH_H
#define SLUICE_FUSE_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fuse/layer_device.h"
#include "index/profile.h"

struct prefetch;

/* At most `limit` bytes (decoded) are asked for; 0: all of the profile, and what lies between its
 * chunks where that saves requests. `profile` was decoded for these devices' tables. The array is
 * borrowed. */
int prefetch_start(struct prefetch **ret, struct data_path *path,
                   struct layer_device *const *devices, const struct profile *profile,
                   uint64_t limit, struct error **error);
/* Before the devices close. NULL is fine. */
void prefetch_end(struct prefetch *prefetch);

enum prefetch_state {
    PREFETCH_RUNNING,
    PREFETCH_DONE,    /* all of the profile was asked for, and has come or failed */
    PREFETCH_LIMITED, /* the same up to the limit */
    PREFETCH_STOPPED, /* the disk is full, or the registry does not give */
};

/* Bytes are decoded ones. */
struct prefetch_progress {
    enum prefetch_state state;
    uint64_t chunks, bytes;           /* all that is to be asked for */
    uint64_t chunks_here, bytes_here; /* of those, that it brought or found */
    uint64_t chunks_read, bytes_read; /* of all, that somebody has read */
};
void prefetch_progress(struct prefetch *prefetch, struct prefetch_progress *ret);

#endif
