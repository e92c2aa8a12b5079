#include "fuse/prefetch.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"

/* What cannot be fetched so often, one time after the other, is left for those who need it. */
#define FAILURES_MAX 8u

/* Under the lock that next() is called under (the data path's): where it is in the profile. Under
 * `lock`: what came of it. */
struct prefetch {
    struct data_path *path;
    struct layer_device *const *devices;
    struct profile profile;
    uint64_t limit;

    size_t entry;      /* the next to be asked for ... */
    uint32_t within;   /* ... and the chunk of it */
    uint64_t asked;    /* bytes */
    _Atomic bool stop; /* asks for nothing more */
    _Atomic bool limited, all_asked;

    pthread_mutex_t lock;
    uint64_t chunks_here, bytes_here;
    unsigned failures;    /* one after the other */
    _Atomic uint64_t out; /* chunks that were asked for and have not come back */
};

/* ---- the supply ---- */

static bool next_chunk(void *context, struct layer_device **ret_device, uint32_t *ret_chunk)
{
    struct prefetch *prefetch = context;
    if (prefetch->stop) return false;
    if (prefetch->entry == prefetch->profile.entry_count) {
        prefetch->all_asked = true;
        return false;
    }
    const struct profile_entry *entry = &prefetch->profile.entries[prefetch->entry];
    struct layer_device *device = prefetch->devices[entry->layer];
    uint32_t chunk = entry->first + prefetch->within;
    uint64_t length = chunk_length(device->table, chunk);
    if (prefetch->limit && length > prefetch->limit - prefetch->asked) {
        prefetch->limited = true;
        prefetch->all_asked = true;
        return false;
    }
    prefetch->asked += length;
    if (++prefetch->within == entry->count) {
        prefetch->entry++;
        prefetch->within = 0;
    }
    atomic_fetch_add(&prefetch->out, 1);
    *ret_device = device;
    *ret_chunk = chunk;
    return true;
}

static bool is_of_the_disk(int result)
{
    return result == -ENOSPC || result == -EDQUOT;
}

/* Once; under the lock. */
static void stop(struct prefetch *prefetch, const char *why)
{
    if (atomic_exchange(&prefetch->stop, true)) return;
    log_warning("the rest of the profile is not fetched ahead: %s", why);
}

static void chunk_came(void *context, struct layer_device *device, uint32_t chunk, int result)
{
    struct prefetch *prefetch = context;
    pthread_mutex_lock(&prefetch->lock);
    if (result == 0) {
        prefetch->chunks_here++;
        prefetch->bytes_here += chunk_length(device->table, chunk);
        prefetch->failures = 0;
    } else if (is_of_the_disk(result)) {
        stop(prefetch, "there is no room in the cache");
    } else if (result == -EIO && ++prefetch->failures >= FAILURES_MAX) {
        stop(prefetch, "the registry does not give it");
    }
    pthread_mutex_unlock(&prefetch->lock);
    atomic_fetch_sub(&prefetch->out, 1);
}

/* ---- making and ending ---- */

static void prefetch_free(struct prefetch *prefetch)
{
    profile_free(&prefetch->profile);
    pthread_mutex_destroy(&prefetch->lock);
    free(prefetch);
}

int prefetch_start(struct prefetch **ret, struct data_path *path,
                   struct layer_device *const *devices, struct profile *profile, uint64_t limit,
                   struct error **error)
{
    struct prefetch *prefetch = calloc(1, sizeof *prefetch);
    if (!prefetch) return error_set_memory(error);
    pthread_mutex_init(&prefetch->lock, NULL);
    prefetch->path = path;
    prefetch->devices = devices;
    prefetch->limit = limit;
    prefetch->profile = *profile;
    *profile = (struct profile){ 0 };
    struct chunk_supply supply = { next_chunk, chunk_came, prefetch };
    if (data_path_set_supply(path, SUPPLY_PROFILE, &supply, error) < 0) {
        prefetch_free(prefetch);
        return -1;
    }
    *ret = prefetch;
    return 0;
}

void prefetch_end(struct prefetch *prefetch)
{
    if (!prefetch) return;
    data_path_set_supply(prefetch->path, SUPPLY_PROFILE, NULL, NULL);
    prefetch_free(prefetch);
}

/* ---- how far ---- */

static void count_entry(const struct prefetch *prefetch, const struct profile_entry *entry,
                        struct prefetch_progress *ret)
{
    const struct layer_device *device = prefetch->devices[entry->layer];
    for (uint32_t chunk = entry->first; chunk < entry->first + entry->count; chunk++) {
        uint64_t length = chunk_length(device->table, chunk);
        ret->chunks++;
        ret->bytes += length;
        if (!layer_device_was_read(device, chunk)) continue;
        ret->chunks_read++;
        ret->bytes_read += length;
    }
}

static enum prefetch_state state_of(const struct prefetch *prefetch)
{
    if (prefetch->stop) return PREFETCH_STOPPED;
    if (!prefetch->all_asked || prefetch->out > 0) return PREFETCH_RUNNING;
    return prefetch->limited ? PREFETCH_LIMITED : PREFETCH_DONE;
}

void prefetch_progress(struct prefetch *prefetch, struct prefetch_progress *ret)
{
    *ret = (struct prefetch_progress){ .state = state_of(prefetch) };
    for (size_t i = 0; i < prefetch->profile.entry_count; i++)
        count_entry(prefetch, &prefetch->profile.entries[i], ret);
    pthread_mutex_lock(&prefetch->lock);
    ret->chunks_here = prefetch->chunks_here;
    ret->bytes_here = prefetch->bytes_here;
    pthread_mutex_unlock(&prefetch->lock);
}
