/* Opening, closing, and the path of a hit, which takes no lock and makes one system call. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/layer_places-internal.h"
#include "fuse/read_ahead-internal.h"
#include "fuse/recent_failure-internal.h"
#include "fuse/run-internal.h"
#include "fuse/thread_buffer-internal.h"
#include "fuse/window_cache-internal.h"

/* Tables made by the rules have chunks of CHUNK_TARGET_LEAST and more. Fewer bytes than these
 * would let a table decide how much memory a read takes. */
#define CHUNK_LENGTH_LEAST 4096u
#define GROUP_LENGTH_MAX   (2u << 20)

/* A hit looks at no more chunks than these; reads of more go the longer way. */
#define HIT_CHUNKS_MAX 64u

static int check_chunk(const struct chunk_table *table, uint32_t i)
{
    const struct chunk *chunk = &table->chunks[i];
    uint64_t end =
        i + 1 < table->chunk_count ? table->chunks[i + 1].stream_offset : table->stream_length;
    if (end <= chunk->stream_offset || end - chunk->stream_offset > CHUNK_LENGTH_MAX) return -1;
    if (i + 1 < table->chunk_count && end - chunk->stream_offset < CHUNK_LENGTH_LEAST) return -1;
    if (i == 0 && (chunk->stream_offset != 0 || chunk->start == CHUNK_CONTINUES)) return -1;
    if (chunk->start == CHUNK_WINDOW && (chunk->window >= table->window_count ||
                                         chunk->window / WINDOWS_PER_GROUP >= table->group_count))
        return -1;
    return chunk->blob_offset < table->blob_length ? 0 : -1;
}

/* What memory and the arithmetic here depend on, whoever made the table. */
static int check_table(const struct chunk_table *table, struct error **error)
{
    for (uint32_t i = 0; i < table->chunk_count; i++)
        if (check_chunk(table, i) < 0)
            return error_set(error, ERROR_INVALID, "chunk %u of the chunk table is impossible", i);
    for (uint32_t i = 0; i < table->group_count; i++)
        if (table->groups[i].length == 0 || table->groups[i].length > GROUP_LENGTH_MAX)
            return error_set(error, ERROR_INVALID,
                             "window group %u of the chunk table is impossible", i);
    if (table->chunk_count == 0 && table->stream_length != 0)
        return error_set(error, ERROR_INVALID, "the chunk table has no chunks");
    return 0;
}

/* ---- opening and closing ---- */

/* A layer that keeps its chunks must have room for them. */
static int check_fits(const struct layer_device *device, struct error **error)
{
    uint64_t size = cache_get_limits(device->path->cache).size;
    uint64_t length = device->table->stream_length;
    if (size == 0 || length <= size - size / 10) return 0;
    error_set(error, ERROR_UNSUPPORTED,
              "layer %s... is one long zstd frame, which can be read from its start only, and its "
              "%llu bytes do not fit into a cache of %llu",
              device->name, (unsigned long long)length, (unsigned long long)size);
    return error_hint(error, "pull the image the ordinary way, or give a larger --cache-size");
}

static int open_cache(struct layer_device *device, const struct digest *key, struct error **error)
{
    const struct chunk_table *table = device->table;
    uint32_t *lengths = malloc(((size_t)table->chunk_count + 1) * sizeof *lengths);
    if (!lengths) return error_set_memory(error);
    for (uint32_t i = 0; i < table->chunk_count; i++)
        lengths[i] = (uint32_t)chunk_length(table, i);
    struct layer_shape shape = { .stream_length = table->stream_length,
                                 .chunk_count = table->chunk_count,
                                 .lengths = lengths,
                                 .keep = chunk_table_is_read_forward(table) };
    int result = shape.keep ? check_fits(device, error) : 0;
    if (result == 0)
        result = layer_cache_open(device->path->cache, key, &shape, &device->cache, error);
    free(lengths);
    return result;
}

static void device_free(struct layer_device *device)
{
    if (!device) return;
    layer_cache_close(device->cache);
    layer_places_free(device);
    free(device->states);
    free(device->generations);
    free(device->touched);
    free(device->profiled);
    free(device->last_error.text);
    free(device);
}

int layer_device_open(struct data_path *path, const struct layer_device_source *source,
                      struct layer_device **ret, struct error **error)
{
    const struct chunk_table *table = source->table;
    if (check_table(table, error) < 0) return -1;
    struct layer_device *device = calloc(1, sizeof *device);
    if (!device) return error_set_memory(error);
    device->path = path;
    device->table = table;
    device->windows_digest = source->windows_digest;
    atomic_init(&device->place, layer_place_new(source->registry, source->repository));
    device->states = calloc(table->chunk_count + 1u, sizeof *device->states);
    device->generations = calloc(table->chunk_count + 1u, sizeof *device->generations);
    device->touched = calloc(table->chunk_count + 1u, sizeof *device->touched);
    char text[DIGEST_TEXT_SIZE];
    memcpy(device->name, digest_format(&table->blob_digest, text), sizeof device->name - 1);
    int result = -1;
    if (!device_place(device) || !device->states || !device->generations || !device->touched)
        error_set_memory(error);
    else
        result = open_cache(device, &source->table_digest, error);
    if (result < 0) {
        device_free(device);
        return -1;
    }
    *ret = device;
    return 0;
}

static void fail_parked(struct layer_device *device, struct actions *actions)
{
    struct device_read *read, *next;
    for (read = TAILQ_FIRST(&device->path->parked); read; read = next) {
        next = TAILQ_NEXT(read, parked);
        if (read->device == device && read->state != READ_LOADING) read_fail(read, actions);
    }
}

/* Checks that have not begun: their reads were failed. */
static void drop_waiting_checks(struct layer_device *device, struct actions *actions)
{
    struct active_chunk *record, *next;
    for (record = TAILQ_FIRST(&device->path->checks); record; record = next) {
        next = TAILQ_NEXT(record, queue);
        if (record->device != device) continue;
        TAILQ_REMOVE(&device->path->checks, record, queue);
        chunk_give_up(record, -ECANCELED, actions);
    }
}

void layer_device_close(struct layer_device *device)
{
    if (!device) return;
    struct data_path *path = device->path;
    struct actions actions;
    data_path_enter(path, &actions);
    device->closing = true;
    fail_parked(device, &actions);
    drop_waiting_checks(device, &actions);
    run_close_device(device, &actions);
    chunk_drop_wanted(device, &actions);
    window_group_close_device(device);
    chunk_drop_kept(path, device, &actions);
    pthread_cond_broadcast(&path->changed);
    data_path_leave(path, &actions);

    data_path_enter(path, &actions);
    while (device->busy > 0)
        pthread_cond_wait(&path->changed, &path->lock);
    chunk_drop_kept(path, device, &actions);
    window_group_forget_device(device);
    failures_forget_device(device);
    data_path_leave(path, &actions);
    device_free(device);
}

struct layer_cache *layer_device_cache(struct layer_device *device)
{
    return device->cache;
}

void layer_device_refuse(struct layer_device *device, const char *reason)
{
    struct actions actions;
    data_path_enter(device->path, &actions);
    atomic_store(&device->refused, true);
    fail_parked(device, &actions);
    device_report(device, &actions, "%s", reason);
    data_path_leave(device->path, &actions);
}

void layer_device_presence(struct layer_device *device, uint32_t *ret_chunks_present,
                           uint64_t *ret_bytes_present)
{
    *ret_chunks_present = 0;
    *ret_bytes_present = 0;
    for (uint32_t i = 0; i < device->table->chunk_count; i++) {
        if (!layer_cache_generation(device->cache, i)) continue;
        ++*ret_chunks_present;
        *ret_bytes_present += chunk_length(device->table, i);
    }
}

/* ---- hits ---- */

/* The chunks that a read touches, in the generations in which they are present. */
struct hit {
    uint32_t first, count;
    uint32_t generations[HIT_CHUNKS_MAX];
};

static bool all_present(const struct layer_device *device, struct hit *hit)
{
    for (uint32_t i = 0; i < hit->count; i++)
        if (!(hit->generations[i] = chunk_present(device, hit->first + i))) return false;
    return true;
}

/* Nothing was evicted while it was read. */
static bool all_held(const struct layer_device *device, const struct hit *hit)
{
    for (uint32_t i = 0; i < hit->count; i++)
        if (!layer_cache_holds(device->cache, hit->first + i, hit->generations[i])) return false;
    return true;
}

static bool read_chunks(struct layer_device *device, struct hit *hit, uint64_t offset, void *data,
                        size_t length)
{
    return all_present(device, hit) &&
           layer_cache_read_now(device->cache, offset, data, length) == (ssize_t)length &&
           all_held(device, hit);
}

static void note_use(struct layer_device *device, const struct hit *hit)
{
    for (uint32_t i = hit->first; i < hit->first + hit->count; i++) {
        layer_cache_touch(device->cache, i);
        layer_cache_drop_behind(device->cache, device->table->chunks[i].stream_offset,
                                (size_t)chunk_length(device->table, i));
    }
}

/* Answers a read whose bytes are all in the page cache. */
static bool read_hit(struct layer_device *device, struct device_reader *reader, uint64_t offset,
                     size_t length, size_t data_length, uint32_t first, uint32_t last,
                     device_read_done *done, void *context)
{
    struct hit touched = { .first = first, .count = data_length > 0 ? last - first + 1 : 0 };
    if (touched.count > HIT_CHUNKS_MAX) return false;
    uint8_t *buffer = thread_buffer_take(length);
    if (!buffer) return false;
    bool hit = data_length == 0 || read_chunks(device, &touched, offset, buffer, data_length);
    if (hit) {
        memset(buffer + data_length, 0, length - data_length);
        device_reader_count(&device->path->all, false, (ssize_t)length);
        device_reader_count(reader, false, (ssize_t)length);
        done(context, buffer, (ssize_t)length);
    }
    thread_buffer_give(buffer);
    if (hit) note_use(device, &touched);
    if (hit && touched.count > 0) ahead_hit(device, first, last);
    return hit;
}

void layer_device_statistics(struct layer_device *device, struct layer_device_statistics *ret)
{
    *ret = (struct layer_device_statistics){ .chunks_fetched = device->chunks_fetched,
                                             .bytes_fetched = device->bytes_fetched };
}

/* ---- first reads ---- */

void data_path_set_recorder(struct data_path *path, const struct chunk_recorder *recorder)
{
    path->recorder = recorder ? *recorder : (struct chunk_recorder){ 0 };
}

bool layer_device_was_read(const struct layer_device *device, uint32_t chunk)
{
    return atomic_load_explicit(&device->touched[chunk], memory_order_relaxed);
}

static void note_first_reads(struct layer_device *device, uint64_t offset, uint32_t first,
                             uint32_t last)
{
    const struct chunk_recorder *recorder = &device->path->recorder;
    for (uint32_t i = first; i <= last; i++) {
        if (layer_device_was_read(device, i)) continue;
        if (atomic_exchange(&device->touched[i], 1) || !recorder->touched) continue;
        recorder->touched(recorder->context, device, i,
                          i == first ? offset : device->table->chunks[i].stream_offset);
    }
}

void layer_device_read(struct layer_device *device, struct device_reader *reader, uint64_t offset,
                       size_t length, device_read_done *done, void *context)
{
    const struct chunk_table *table = device->table;
    if (length > DEVICE_READ_MAX) {
        done(context, NULL, -EINVAL);
        return;
    }
    if (atomic_load_explicit(&device->refused, memory_order_relaxed)) {
        device_reader_count(&device->path->all, false, -EIO);
        device_reader_count(reader, false, -EIO);
        done(context, NULL, -EIO);
        return;
    }
    size_t data_length = 0;
    uint32_t first = 0, last = 0;
    if (offset < table->stream_length && length > 0) {
        uint64_t left = table->stream_length - offset;
        data_length = length < left ? length : (size_t)left;
        first = last = chunk_table_find(table, offset);
        while (last + 1 < table->chunk_count &&
               table->chunks[last + 1].stream_offset < offset + data_length)
            last++;
        note_first_reads(device, offset, first, last);
    }
    if (read_hit(device, reader, offset, length, data_length, first, last, done, context)) return;
    if (data_length == 0) {
        done(context, NULL, -ENOMEM);
        return;
    }
    read_park(device, reader, offset, length, data_length, first, last, done, context);
}
