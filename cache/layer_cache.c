/*
 * A layer's chunks: reading, storing, and keeping their pages out of the way.
 *
 * What is on disk is only a hint: each process hashes a chunk before its first
 * use, so a file that lost bytes at a power failure or a kill -9 costs a fetch
 * and nothing else. layer_files-internal.h says how processes share it, and how
 * a reader knows that a chunk was evicted under it.
 *
 * The kernel above us caches what it read from us, so the same bytes should not
 * stay in the page cache under this file's name too. The pages of the last few
 * chunks stay, because one chunk is asked for in many small reads; those of
 * chunks before are dropped, which the kernel can do only with clean pages.
 *
 * So a chunk counts as stored only when the disk has taken its bytes, and what
 * it takes to find them: when writing back fails (a thin disk that is full, a
 * dying one), the kernel drops pages, and what is read then is something else.
 * The kernel tells an error once, to whoever asks first, and not for which
 * range: one sync is under way at a time, for all that was written before it,
 * and its failure is the failure of everything that was being written meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/layer_cache-internal.h"
#include "cache/room-internal.h"
#include "cache/seal-internal.h"

#define RECENT_CHUNKS 32u
/* A large folio of the page cache (x86-64: at most this, and aligned to its size) can only be
 * dropped as a whole: measured, ranges of 1 MiB left two thirds of what readahead had brought. */
#define FOLIO_LENGTH (2u << 20)

struct range {
    uint64_t offset;
    size_t length;
};

STAILQ_HEAD(request_list, layer_request);

struct layer_cache {
    struct cache *cache;
    struct layer_files files;
    int missing; /* the errno of files that could not be had: nothing is stored; 0: they are there
                  */

    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned under_way;                 /* requests with the ring */
    struct range recent[RECENT_CHUNKS]; /* newest first */
    unsigned recent_count;
    _Atomic uint64_t newest; /* offset of recent[0], plus one */

    struct request_list written; /* wait for the next sync */
    struct request_list syncing; /* are in the one that is under way */
    struct ring_request sync;
    uint64_t sync_failures;
};

/* ---- opening ---- */

int layer_cache_open(struct cache *cache, const struct digest *key, const struct layer_shape *shape,
                     struct layer_cache **ret, struct error **error)
{
    struct layer_cache *layer = calloc(1, sizeof *layer);
    if (!layer) return error_set_memory(error);
    layer->cache = cache;
    struct error *reason = NULL;
    if (layer_files_open(cache, key, shape, &layer->files, &reason) < 0) {
        layer->missing = error_errno(reason);
        if (!layer->missing) {
            free(layer);
            return error_move(error, reason);
        }
        log_warning("%s; going on without storing chunks of it", error_message(reason));
        error_free(reason);
    }
    pthread_mutex_init(&layer->lock, NULL);
    pthread_cond_init(&layer->idle, NULL);
    STAILQ_INIT(&layer->written);
    STAILQ_INIT(&layer->syncing);
    *ret = layer;
    return 0;
}

void layer_cache_close(struct layer_cache *layer)
{
    if (!layer) return;
    pthread_mutex_lock(&layer->lock);
    while (layer->under_way > 0)
        pthread_cond_wait(&layer->idle, &layer->lock);
    pthread_mutex_unlock(&layer->lock);
    layer_files_close(&layer->files);
    pthread_cond_destroy(&layer->idle);
    pthread_mutex_destroy(&layer->lock);
    free(layer);
}

const struct layer_files *layer_cache_files(const struct layer_cache *layer,
                                            struct cache **ret_cache)
{
    *ret_cache = layer->cache;
    return layer->missing ? NULL : &layer->files;
}

/* ---- what is there ---- */

uint32_t layer_cache_generation(struct layer_cache *layer, uint32_t chunk)
{
    return chunk < layer->files.chunk_count ? layer_files_generation(&layer->files, chunk) : 0;
}

bool layer_cache_holds(struct layer_cache *layer, uint32_t chunk, uint32_t generation)
{
    /* Bytes that were read before this call must not be read after it. */
    atomic_thread_fence(memory_order_acquire);
    return generation != 0 && layer_cache_generation(layer, chunk) == generation;
}

void layer_cache_touch(struct layer_cache *layer, uint32_t chunk)
{
    if (chunk < layer->files.chunk_count) layer_files_touch(&layer->files, chunk);
}

void layer_cache_forget(struct layer_cache *layer, uint32_t chunk, uint32_t generation)
{
    if (chunk < layer->files.chunk_count) layer_files_clear(&layer->files, chunk, generation);
}

/* ---- requests ---- */

enum request_step { STEP_READ, STEP_WRITE, STEP_DROP };

struct layer_request {
    struct ring_request ring; /* first: ring_done gets its address */
    struct layer_cache *layer;
    enum request_step step;
    struct range range;
    cache_done *done; /* READ */
    void *context;

    /* WRITE: */
    uint32_t chunk;
    const void *data;
    cache_stored *stored;
    struct room_waiter room;
    uint64_t failures_before; /* syncs that had failed when it was begun */
    STAILQ_ENTRY(layer_request) link;
};

static struct layer_request *request_new(struct layer_cache *layer, uint64_t offset, size_t length)
{
    struct layer_request *request = calloc(1, sizeof *request);
    if (!request) return NULL;
    request->layer = layer;
    request->range = (struct range){ offset, length };
    pthread_mutex_lock(&layer->lock);
    layer->under_way++;
    request->failures_before = layer->sync_failures;
    pthread_mutex_unlock(&layer->lock);
    return request;
}

static void request_free(struct layer_request *request)
{
    struct layer_cache *layer = request->layer;
    free(request);
    pthread_mutex_lock(&layer->lock);
    if (--layer->under_way == 0) pthread_cond_broadcast(&layer->idle);
    pthread_mutex_unlock(&layer->lock);
}

static void request_step_done(struct ring_request *ring, ssize_t result);

static void request_submit(struct layer_request *request, enum request_step step,
                           enum ring_operation operation, int descriptor, void *data,
                           struct range range)
{
    request->step = step;
    request->ring = (struct ring_request){
        .operation = operation,
        .descriptor = descriptor,
        .data = data,
        .length = range.length,
        .offset = range.offset,
        .done = request_step_done,
    };
    ring_submit(request->layer->cache->ring, &request->ring);
}

/* ---- syncing ---- */

static void sync_done(struct ring_request *ring, ssize_t result);

/* With the lock held. */
static void start_sync(struct layer_cache *layer)
{
    if (!STAILQ_EMPTY(&layer->syncing) || STAILQ_EMPTY(&layer->written)) return;
    STAILQ_CONCAT(&layer->syncing, &layer->written);
    layer->sync = (struct ring_request){ .operation = RING_SYNC,
                                         .descriptor = layer->files.data,
                                         .done = sync_done };
    ring_submit(layer->cache->ring, &layer->sync);
}

static void await_sync(struct layer_request *request)
{
    struct layer_cache *layer = request->layer;
    pthread_mutex_lock(&layer->lock);
    STAILQ_INSERT_TAIL(&layer->written, request, link);
    start_sync(layer);
    pthread_mutex_unlock(&layer->lock);
}

/* ---- the end of a store ---- */

static void store_over(struct layer_request *request, ssize_t result, uint32_t generation)
{
    request->stored(request->context, result, generation);
    request_free(request);
}

/* The chunk's lock is held. */
static void store_failed(struct layer_request *request, ssize_t result)
{
    layer_files_unlock_chunks(&request->layer->files, request->chunk, 1);
    room_stored(request->layer->cache->room, request->room.length);
    store_over(request, result, 0);
}

static void publish(struct layer_request *request)
{
    const struct layer_files *files = &request->layer->files;
    uint32_t generation = layer_files_publish(files, request->chunk);
    layer_files_unlock_chunks(files, request->chunk, 1);
    room_stored(request->layer->cache->room, request->room.length);
    store_over(request, generation ? (ssize_t)request->range.length : -EIO, generation);
}

/* On the ring's thread, or one of its threads. */
static void sync_done(struct ring_request *ring, ssize_t result)
{
    struct layer_cache *layer =
        (struct layer_cache *)(void *)((char *)ring - offsetof(struct layer_cache, sync));
    struct request_list over = STAILQ_HEAD_INITIALIZER(over);
    pthread_mutex_lock(&layer->lock);
    if (result < 0) layer->sync_failures++;
    uint64_t failures = layer->sync_failures;
    STAILQ_CONCAT(&over, &layer->syncing);
    start_sync(layer);
    pthread_mutex_unlock(&layer->lock);
    struct layer_request *request;
    while ((request = STAILQ_FIRST(&over))) {
        STAILQ_REMOVE_HEAD(&over, link); /* the last one may take the layer with it */
        if (request->failures_before == failures)
            publish(request);
        else
            store_failed(request, result < 0 ? result : -EIO);
    }
}

/* One step of a request has ended: tells the caller, or goes on with the next. */
static void request_step_done(struct ring_request *ring, ssize_t result)
{
    struct layer_request *request = (struct layer_request *)ring;
    switch (request->step) {
    case STEP_READ:
        request->done(request->context, result);
        break;
    case STEP_WRITE:
        if (result == (ssize_t)request->range.length)
            await_sync(request);
        else
            store_failed(request, result < 0 ? result : -EIO);
        return;
    case STEP_DROP:
        break;
    }
    request_free(request);
}

static bool within_data(const struct layer_cache *layer, uint64_t offset, size_t length)
{
    return offset <= layer->files.data_length && length <= layer->files.data_length - offset;
}

ssize_t layer_cache_read_now(struct layer_cache *layer, uint64_t offset, void *data, size_t length)
{
    if (!within_data(layer, offset, length)) return -EINVAL;
    struct iovec part = { data, length };
    ssize_t count = preadv2(layer->files.data, &part, 1, (off_t)offset, RWF_NOWAIT);
    /* Not every file system can tell; EINTR and errors are the slow path's to find out. */
    return count < 0 ? 0 : count;
}

ssize_t layer_cache_read(struct layer_cache *layer, uint64_t offset, void *data, size_t length,
                         cache_done *done, void *context)
{
    ssize_t count = layer_cache_read_now(layer, offset, data, length);
    if (count < 0 || (size_t)count == length) return count;
    struct layer_request *request = request_new(layer, offset, length);
    if (!request) return -ENOMEM;
    request->done = done;
    request->context = context;
    request_submit(request, STEP_READ, RING_READ, layer->files.data, data, request->range);
    return -EINPROGRESS;
}

/* ---- storing ---- */

/* Whether the file has a name, and its length. What is written to one without a name is found by
 * nobody and counted nowhere; one that was cut off would grow again, with zeros where chunks were
 * that this process has hashed. */
static bool is_whole(const struct layer_files *files)
{
    struct stat status;
    return fstat(files->data, &status) == 0 && status.st_nlink > 0 &&
           (uint64_t)status.st_size == files->data_length;
}

/* There is room. */
static void start_store(struct layer_request *request)
{
    struct layer_cache *layer = request->layer;
    struct range range = request->range;
    int number = 0;
    if (!is_whole(&layer->files))
        number = ESTALE;
    else if (!layer_files_lock_chunks(&layer->files, request->chunk, 1))
        number = EBUSY;
    if (number) {
        room_give_back(layer->cache->room, range.length);
        store_over(request, -number, 0);
        return;
    }
    /* Stored by another process meanwhile: the same bytes go to the same place, but not into a file
     * that has been found to be right as it is. */
    if (layer_files_generation(&layer->files, request->chunk)) {
        struct seal_record seal;
        room_give_back(layer->cache->room, range.length);
        request->room.length = 0;
        if (seal_read(layer->cache, &layer->files, &seal)) {
            store_failed(request, -EBUSY);
            return;
        }
    }
    request_submit(request, STEP_WRITE, RING_WRITE, layer->files.data, (void *)request->data,
                   range);
}

static void room_answered(struct room_waiter *waiter, bool taken)
{
    struct layer_request *request =
        (struct layer_request *)(void *)((char *)waiter - offsetof(struct layer_request, room));
    if (taken)
        start_store(request);
    else
        store_over(request, -EDQUOT, 0);
}

void layer_cache_store(struct layer_cache *layer, uint32_t chunk, uint64_t offset, const void *data,
                       size_t length, cache_stored *done, void *context)
{
    if (layer->missing || chunk >= layer->files.chunk_count ||
        !within_data(layer, offset, length)) {
        done(context, layer->missing ? -layer->missing : -EINVAL, 0);
        return;
    }
    struct layer_request *request = request_new(layer, offset, length);
    if (!request) {
        done(context, -ENOMEM, 0);
        return;
    }
    request->chunk = chunk;
    request->data = data;
    request->stored = done;
    request->context = context;
    request->room = (struct room_waiter){ .length = length, .done = room_answered };
    switch (room_take(layer->cache->room, length)) {
    case ROOM_TAKEN:
        start_store(request);
        break;
    case ROOM_WAIT:
        room_wait(layer->cache->room, &request->room);
        break;
    case ROOM_NONE:
        store_over(request, -EDQUOT, 0);
        break;
    }
}

/* ---- drop-behind ---- */

/* Moves `range` to the front; true: *ret_oldest fell out. */
static bool remember_recent(struct layer_cache *layer, struct range range, struct range *ret_oldest)
{
    unsigned place = 0;
    while (place < layer->recent_count && layer->recent[place].offset != range.offset)
        place++;
    bool fell_out = place == RECENT_CHUNKS;
    if (fell_out) *ret_oldest = layer->recent[--place];
    if (place == layer->recent_count) layer->recent_count++;
    memmove(&layer->recent[1], &layer->recent[0], place * sizeof layer->recent[0]);
    layer->recent[0] = range;
    return fell_out;
}

void layer_cache_drop_behind(struct layer_cache *layer, uint64_t offset, size_t length)
{
    /* Reads of one chunk come in rows: this is all that most of them pay. */
    if (atomic_load_explicit(&layer->newest, memory_order_relaxed) == offset + 1) return;
    struct range oldest = { 0 };
    pthread_mutex_lock(&layer->lock);
    bool fell_out = remember_recent(layer, (struct range){ offset, length }, &oldest);
    atomic_store_explicit(&layer->newest, offset + 1, memory_order_relaxed);
    pthread_mutex_unlock(&layer->lock);
    if (!fell_out) return;
    /* Downwards only: what lies above is dropped with the chunk there, which is the younger one
     * when somebody reads forward. */
    oldest.length += oldest.offset % FOLIO_LENGTH;
    oldest.offset -= oldest.offset % FOLIO_LENGTH;
    struct layer_request *request = request_new(layer, oldest.offset, oldest.length);
    if (request)
        request_submit(request, STEP_DROP, RING_DROP, layer->files.data, NULL, request->range);
}
