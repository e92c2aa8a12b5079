/* A device of the data path, and how its chunks are. */
#ifndef SLUICE_FUSE_LAYER_DEVICE_INTERNAL_H
#define SLUICE_FUSE_LAYER_DEVICE_INTERNAL_H

#include "fuse/data_path-internal.h"
#include "fuse/layer_places-internal.h"
#include "fuse/read_ahead-internal.h"

#define CHUNK_BUCKETS 256u

struct layer_device {
    struct data_path *path;
    _Atomic(struct layer_place *) place; /* the first; written under the lock */
    const struct chunk_table *table;
    struct digest windows_digest;
    struct layer_cache *cache;
    char name[20];                 /* the blob's digest, shortened, for messages */
    _Atomic uint8_t *states;       /* enum chunk_state by chunk; written under the lock */
    _Atomic uint32_t *generations; /* by chunk: the last one that this process has verified */
    _Atomic uint8_t *touched;      /* by chunk: 1 once it was read */
    uint8_t *profiled;             /* by chunk: 1 where a profile names it; or NULL */
    struct active_chunk *active[CHUNK_BUCKETS];
    struct ahead_reader readers[AHEAD_READERS];
    uint64_t heard_of;
    unsigned busy; /* reads, runs, checks, stores, requests that are alive */
    _Atomic bool closing;
    _Atomic bool refused; /* layer_device_refuse() */
    _Atomic uint64_t chunks_fetched, bytes_fetched;
    struct noted_error last_error;
};

static inline const struct layer_place *device_place(const struct layer_device *device)
{
    return atomic_load_explicit(&device->place, memory_order_acquire);
}

static inline bool chunk_is_profiled(const struct layer_device *device, uint32_t chunk)
{
    return device->profiled && device->profiled[chunk];
}

static inline enum chunk_state chunk_state(const struct layer_device *device, uint32_t chunk)
{
    return (enum chunk_state)atomic_load_explicit(&device->states[chunk], memory_order_acquire);
}

/* The generation in which the chunk is present; 0: it is not, or no longer. */
static inline uint32_t chunk_present(const struct layer_device *device, uint32_t chunk)
{
    if (chunk_state(device, chunk) != CHUNK_PRESENT) return 0;
    uint32_t generation = atomic_load_explicit(&device->generations[chunk], memory_order_relaxed);
    return layer_cache_holds(device->cache, chunk, generation) ? generation : 0;
}

/* Under the lock. */
void device_busy(struct layer_device *device);
void device_idle(struct layer_device *device);

#endif
