#include "fuse/prefetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "fuse/prefetch-internal.h"

/* What cannot be fetched so often, one time after the other, is left for those who need it. */
#define FAILURES_MAX 8u

/* Under the lock that next() is called under (the data path's): where it is in the profile. Under
 * `lock`: what came of it. */
struct prefetch {
    struct data_path *path;
    struct supply *supply;
    struct layer_device *const *devices;
    struct prefetch_plan plan;
    struct window_prefetch windows;
    uint64_t limit;

    size_t piece;      /* the next to be asked for ... */
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

/* Of the pieces that will not be asked for nobody knows more than who guesses. */
static void unmark_rest(const struct prefetch *prefetch)
{
    for (size_t i = prefetch->piece; i < prefetch->plan.piece_count; i++) {
        const struct prefetch_piece *piece = &prefetch->plan.pieces[i];
        uint8_t *profiled = prefetch->devices[piece->layer]->profiled;
        if (profiled) memset(profiled + piece->first, 0, piece->count);
    }
}

static bool next_chunk(void *context, struct layer_device **ret_device, uint32_t *ret_chunk)
{
    struct prefetch *prefetch = context;
    if (prefetch->stop) return false;
    if (prefetch->piece == prefetch->plan.piece_count) {
        prefetch->all_asked = true;
        return false;
    }
    const struct prefetch_piece *piece = &prefetch->plan.pieces[prefetch->piece];
    /* Its windows come with others', in fewer requests than if it asked for them itself. */
    if (piece->windows != NO_WINDOWS && !prefetch->plan.ranges[piece->windows].settled)
        return false;
    struct layer_device *device = prefetch->devices[piece->layer];
    uint32_t chunk = piece->first + prefetch->within;
    uint64_t length = chunk_length(device->table, chunk);
    if (prefetch->limit && length > prefetch->limit - prefetch->asked) {
        unmark_rest(prefetch);
        prefetch->limited = true;
        prefetch->all_asked = true;
        return false;
    }
    prefetch->asked += length;
    if (++prefetch->within == piece->count) {
        prefetch->piece++;
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

/* For who would guess otherwise. Without memory they guess. */
static void mark_pieces(const struct prefetch *prefetch)
{
    struct actions actions;
    data_path_enter(prefetch->path, &actions);
    for (size_t i = 0; i < prefetch->plan.piece_count; i++) {
        const struct prefetch_piece *piece = &prefetch->plan.pieces[i];
        struct layer_device *device = prefetch->devices[piece->layer];
        if (!device->profiled) device->profiled = calloc(device->table->chunk_count, 1);
        if (device->profiled) memset(device->profiled + piece->first, 1, piece->count);
    }
    data_path_leave(prefetch->path, &actions);
}

static void prefetch_free(struct prefetch *prefetch)
{
    prefetch_plan_free(&prefetch->plan);
    pthread_mutex_destroy(&prefetch->lock);
    free(prefetch);
}

int prefetch_start(struct prefetch **ret, struct data_path *path,
                   struct layer_device *const *devices, const struct profile *profile,
                   uint64_t limit, struct error **error)
{
    struct prefetch *prefetch = calloc(1, sizeof *prefetch);
    if (!prefetch) return error_set_memory(error);
    pthread_mutex_init(&prefetch->lock, NULL);
    prefetch->path = path;
    prefetch->devices = devices;
    prefetch->limit = limit;
    struct chunk_supply supply = { next_chunk, chunk_came, prefetch };
    if (prefetch_plan_make(&prefetch->plan, path, devices, profile, error) < 0) {
        prefetch_free(prefetch);
        return -1;
    }
    mark_pieces(prefetch);
    window_prefetch_start(&prefetch->windows, path, &prefetch->plan);
    if (data_path_add_supply(path, SUPPLY_PROFILE, &supply, &prefetch->supply, error) < 0) {
        window_prefetch_end(&prefetch->windows);
        prefetch_free(prefetch);
        return -1;
    }
    *ret = prefetch;
    return 0;
}

void prefetch_end(struct prefetch *prefetch)
{
    if (!prefetch) return;
    data_path_remove_supply(prefetch->path, prefetch->supply);
    window_prefetch_end(&prefetch->windows);
    prefetch_free(prefetch);
}

/* ---- how far ---- */

static void count_piece(const struct prefetch *prefetch, const struct prefetch_piece *piece,
                        struct prefetch_progress *ret)
{
    const struct layer_device *device = prefetch->devices[piece->layer];
    for (uint32_t chunk = piece->first; chunk < piece->first + piece->count; chunk++) {
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
    for (size_t i = 0; i < prefetch->plan.piece_count; i++)
        count_piece(prefetch, &prefetch->plan.pieces[i], ret);
    pthread_mutex_lock(&prefetch->lock);
    ret->chunks_here = prefetch->chunks_here;
    ret->bytes_here = prefetch->bytes_here;
    pthread_mutex_unlock(&prefetch->lock);
}
