/* What the files of prefetching share. */
#ifndef SLUICE_FUSE_PREFETCH_INTERNAL_H
#define SLUICE_FUSE_PREFETCH_INTERNAL_H

#include "fuse/layer_device-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/worker_pool-internal.h"
#include "index/profile.h"

/* ---- prefetch_plan.c: a profile becomes pieces that are worth a request ---- */

#define NO_WINDOWS UINT32_MAX

/* Neighbours in the blob. */
struct prefetch_piece {
    uint32_t layer;
    uint32_t first, count;
    uint32_t windows; /* in the plan's window ranges: what it takes to begin; or NO_WINDOWS */
};

/* Groups of windows that are fetched as one range. */
struct window_range {
    struct window_prefetch *owner;
    struct layer_device *device;
    uint32_t first, count; /* groups */
    bool settled;          /* they are in the cache, or will not be; under the data path's lock */
    struct window_range *leader; /* the first of those that its request asks for */
    unsigned unsettled;          /* of a leader: how many of these */
    struct range_request *request;
    struct buffer body;
    struct job job;
};

struct prefetch_plan {
    struct prefetch_piece *pieces; /* in the order in which the profile has their first chunk */
    size_t piece_count;
    struct window_range *ranges; /* in the order in which pieces need them */
    size_t range_count;
};

/* The profile's chunks in pieces; where each range is a request, with little gaps filled, as long
 * as all of these together are a small part of it. */
int prefetch_plan_make(struct prefetch_plan *ret, const struct data_path *path,
                       struct layer_device *const *devices, const struct profile *profile,
                       struct error **error);
void prefetch_plan_free(struct prefetch_plan *plan);

/* ---- window_prefetch.c: brings the plan's windows into the cache ---- */

struct window_prefetch {
    struct data_path *path;
    struct window_range *ranges;
    size_t count, next;
    unsigned under_way; /* ranges */
    unsigned requests;  /* that ask for them */
    bool stop;
};

/* The plan outlives it. Without the lock. */
void window_prefetch_start(struct window_prefetch *windows, struct data_path *path,
                           const struct prefetch_plan *plan);
/* Nothing of it is under way afterwards. Without the lock. */
void window_prefetch_end(struct window_prefetch *windows);

#endif
