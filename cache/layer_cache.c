/*
 * A layer's chunks: `data`, a sparse file whose offsets are the stream's, and
 * `present`, a byte per chunk.
 *
 * Nothing is locked. The presence map is only a hint, and not flushed:
 * each process hashes a chunk before its first use, so a file that lost bytes
 * at a power failure or a kill -9, or that belongs to another life of the
 * layer's directory, costs a fetch and nothing else. Files are never truncated
 * in place: a process that finds an odd one puts a new one there, and those
 * that have the old one open go on with theirs.
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
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/cache-internal.h"

#define DATA_ALIGNMENT 4096u
#define RECENT_CHUNKS  32u
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
    int data, present;
    uint64_t data_length;
    uint32_t chunk_count;
    _Atomic uint8_t *stored; /* by chunk; what this process knows */

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

/* A file of exactly `length` bytes under `name`, which is made where there is none. */
static int open_sized(struct cache *cache, int directory, const char *name, uint64_t length)
{
    struct stat status;
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        cleanup_close int found = cache_open_file(directory, name, O_RDWR, &status);
        if (found < 0 && errno != ENOENT) return -1;
        if (found >= 0 && (uint64_t)status.st_size == length) return take_descriptor(&found);
        if (found >= 0) unlinkat(directory, name, 0);

        char temporary[CACHE_TEMPORARY_NAME_SIZE];
        cleanup_close int made = cache_open_temporary(cache, temporary);
        if (made < 0) return -1;
        int failed = ftruncate(made, (off_t)length) < 0 ||
                     linkat(cache->temporary, temporary, directory, name, 0) < 0;
        int number = errno;
        unlinkat(cache->temporary, temporary, 0);
        if (!failed) return take_descriptor(&made);
        if (number != EEXIST) {
            errno = number;
            return -1;
        }
        /* Another process was faster: theirs serves as well. */
    }
    errno = EEXIST;
    return -1;
}

static int open_files(struct layer_cache *layer, const struct digest *key, struct error **error)
{
    char name[DIGEST_HEX_SIZE];
    digest_format_hex(key, name);
    cleanup_close int directory =
        cache_open_directory(layer->cache, layer->cache->layers, name, error);
    if (directory < 0) return -1;
    layer->data = open_sized(layer->cache, directory, "data", layer->data_length);
    if (layer->data >= 0)
        layer->present = open_sized(layer->cache, directory, "present", layer->chunk_count);
    if (layer->data < 0 || layer->present < 0)
        return error_set_errno(error, errno, "open the files of layer %s in cache directory '%s'",
                               name, layer->cache->directory);
    return 0;
}

static int read_presence(struct layer_cache *layer, struct error **error)
{
    cleanup_free uint8_t *map = malloc(layer->chunk_count + 1u);
    layer->stored = calloc(layer->chunk_count + 1u, sizeof *layer->stored);
    if (!map || !layer->stored) return error_set_memory(error);
    ssize_t count = read_fully_at(layer->present, map, layer->chunk_count, 0);
    for (ssize_t i = 0; i < count; i++)
        atomic_init(&layer->stored[i], map[i] == 1);
    return 0;
}

int layer_cache_open(struct cache *cache, const struct digest *key, uint64_t stream_length,
                     uint32_t chunk_count, struct layer_cache **ret, struct error **error)
{
    if (stream_length > INT64_MAX - DATA_ALIGNMENT)
        return error_set(error, ERROR_INVALID, "a stream of %llu bytes is too long to be cached",
                         (unsigned long long)stream_length);
    struct layer_cache *layer = calloc(1, sizeof *layer);
    if (!layer) return error_set_memory(error);
    layer->cache = cache;
    layer->data = layer->present = -1;
    layer->data_length = (stream_length + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    layer->chunk_count = chunk_count;
    pthread_mutex_init(&layer->lock, NULL);
    STAILQ_INIT(&layer->written);
    STAILQ_INIT(&layer->syncing);
    pthread_cond_init(&layer->idle, NULL);
    if (open_files(layer, key, error) < 0 || read_presence(layer, error) < 0) {
        layer_cache_close(layer);
        return -1;
    }
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
    if (layer->data >= 0) close(layer->data);
    if (layer->present >= 0) close(layer->present);
    pthread_cond_destroy(&layer->idle);
    pthread_mutex_destroy(&layer->lock);
    free(layer->stored);
    free(layer);
}

/* ---- presence ---- */

bool layer_cache_has(struct layer_cache *layer, uint32_t chunk)
{
    if (chunk >= layer->chunk_count) return false;
    if (atomic_load_explicit(&layer->stored[chunk], memory_order_relaxed)) return true;
    uint8_t mark = 0;
    if (pread(layer->present, &mark, 1, chunk) != 1 || mark != 1) return false;
    atomic_store_explicit(&layer->stored[chunk], 1, memory_order_relaxed);
    return true;
}

void layer_cache_forget(struct layer_cache *layer, uint32_t chunk)
{
    if (chunk >= layer->chunk_count) return;
    uint8_t mark = 0;
    atomic_store_explicit(&layer->stored[chunk], 0, memory_order_relaxed);
    /* A mark that stays for want of a write only costs another look at the bytes. */
    ssize_t written = pwrite(layer->present, &mark, 1, chunk);
    (void)written;
}

/* ---- requests ---- */

enum request_step { STEP_READ, STEP_WRITE, STEP_MARK, STEP_DROP };

struct layer_request {
    struct ring_request ring; /* first: ring_done gets its address */
    struct layer_cache *layer;
    enum request_step step;
    uint32_t chunk;
    uint8_t mark;
    struct range range;
    uint64_t failures_before; /* syncs that had failed when it was begun */
    STAILQ_ENTRY(layer_request) link;
    cache_done *done;
    void *context;
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
                                         .descriptor = layer->data,
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

static void fail(struct layer_request *request, ssize_t result)
{
    request->done(request->context, result);
    request_free(request);
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
        if (request->failures_before != failures) {
            fail(request, result < 0 ? result : -EIO);
            continue;
        }
        request->mark = 1;
        request_submit(request, STEP_MARK, RING_WRITE, layer->present, &request->mark,
                       (struct range){ request->chunk, 1 });
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
            fail(request, result < 0 ? result : -EIO);
        return;
    case STEP_MARK:
        /* Without the mark on disk the chunk is still good for this process. */
        atomic_store_explicit(&request->layer->stored[request->chunk], 1, memory_order_relaxed);
        request->done(request->context, (ssize_t)request->range.length);
        break;
    case STEP_DROP:
        break;
    }
    request_free(request);
}

static bool within_data(const struct layer_cache *layer, uint64_t offset, size_t length)
{
    return offset <= layer->data_length && length <= layer->data_length - offset;
}

ssize_t layer_cache_read_now(struct layer_cache *layer, uint64_t offset, void *data, size_t length)
{
    if (!within_data(layer, offset, length)) return -EINVAL;
    struct iovec part = { data, length };
    ssize_t count = preadv2(layer->data, &part, 1, (off_t)offset, RWF_NOWAIT);
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
    request_submit(request, STEP_READ, RING_READ, layer->data, data, request->range);
    return -EINPROGRESS;
}

void layer_cache_store(struct layer_cache *layer, uint32_t chunk, uint64_t offset, const void *data,
                       size_t length, cache_done *done, void *context)
{
    if (chunk >= layer->chunk_count || !within_data(layer, offset, length)) {
        done(context, -EINVAL);
        return;
    }
    struct layer_request *request = request_new(layer, offset, length);
    if (!request) {
        done(context, -ENOMEM);
        return;
    }
    request->chunk = chunk;
    request->done = done;
    request->context = context;
    request_submit(request, STEP_WRITE, RING_WRITE, layer->data, (void *)data, request->range);
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
    if (request) request_submit(request, STEP_DROP, RING_DROP, layer->data, NULL, request->range);
}
