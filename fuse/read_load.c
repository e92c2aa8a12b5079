/*
 * The part of a read that is in the cache file but not in the page cache:
 * loaded without holding up a thread, as memory allows.
 */
#include <errno.h>
#include <stdlib.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/memory_budget-internal.h"

void read_start_loads(struct data_path *path, struct actions *actions)
{
    struct device_read *read;
    while ((read = TAILQ_FIRST(&path->loads)) &&
           memory_hold(&path->memory, MEMORY_LOAD, read->length)) {
        TAILQ_REMOVE(&path->loads, read, queue);
        read->state = READ_LOADING;
        read->load_first = read->load_end = 0;
        STAILQ_INSERT_TAIL(&actions->loads, read, action);
    }
}

/* Under the lock: the read no longer loads. False: it was answered meanwhile, and is gone. */
static bool load_over(struct device_read *read, struct actions *actions)
{
    memory_let_go(&read->device->path->memory, MEMORY_LOAD, read->length);
    if (read->expired) {
        read_unreference(read, actions);
        return false;
    }
    return true;
}

static void load_failed(struct device_read *read)
{
    struct data_path *path = read->device->path;
    struct actions actions;
    data_path_enter(path, &actions);
    if (load_over(read, &actions)) read_fail(read, &actions);
    data_path_leave(path, &actions);
}

static void load_complete(struct device_read *read)
{
    struct layer_device *device = read->device;
    struct actions actions;
    uint8_t *buffer = read->buffer;
    read->buffer = NULL;
    data_path_enter(device->path, &actions);
    bool answers = load_over(read, &actions);
    if (answers) {
        TAILQ_REMOVE(&device->path->parked, read, parked);
        read->state = READ_FINISHING;
    }
    data_path_leave(device->path, &actions);
    if (answers) {
        read_reply(read, buffer, (ssize_t)read->length);
        for (uint32_t i = 0; i < read->piece_count; i++) {
            layer_cache_touch(device->cache, read->pieces[i].chunk);
            layer_cache_drop_behind(device->cache,
                                    device->table->chunks[read->pieces[i].chunk].stream_offset,
                                    (size_t)chunk_length(device->table, read->pieces[i].chunk));
        }
        read_release(read);
    }
    free(buffer);
}

/* The cache file does not have what it should, or chunks were evicted while they were read: they
 * are fetched after all. */
static void load_lost(struct device_read *read, bool damaged)
{
    struct layer_device *device = read->device;
    struct data_path *path = device->path;
    struct actions actions;
    free(read->buffer);
    read->buffer = NULL;
    data_path_enter(path, &actions);
    for (uint32_t i = read->load_first; i < read->load_end && damaged; i++)
        chunk_damaged(device, read->pieces[i].chunk, read->pieces[i].generation);
    if (load_over(read, &actions)) {
        if (device->closing)
            read_fail(read, &actions);
        else
            read_await(read, &actions);
    }
    data_path_leave(path, &actions);
}

/* The next row of pieces that have to come from the file. False: there is none. */
static bool next_load(struct device_read *read, size_t *ret_in_read, size_t *ret_length)
{
    uint32_t first = read->load_end;
    while (first < read->piece_count && read->pieces[first].bytes)
        first++;
    uint32_t end = first;
    size_t in_chunk, in_read, length;
    *ret_length = 0;
    for (; end < read->piece_count && !read->pieces[end].bytes; end++) {
        read_piece_range(&read->pieces[end], &in_chunk, &in_read, &length);
        if (end == first) *ret_in_read = in_read;
        *ret_length += length;
    }
    read->load_first = first;
    read->load_end = end;
    return end > first;
}

static bool all_held(const struct device_read *read)
{
    for (uint32_t i = read->load_first; i < read->load_end; i++)
        if (!layer_cache_holds(read->device->cache, read->pieces[i].chunk,
                               read->pieces[i].generation))
            return false;
    return true;
}

static void load_done(void *context, ssize_t result);

static void load_go_on(struct device_read *read)
{
    size_t in_read = 0, length;
    while (next_load(read, &in_read, &length)) {
        ssize_t result = layer_cache_read(read->device->cache, read->offset + in_read,
                                          read->buffer + in_read, length, load_done, read);
        if (result == -EINPROGRESS) return;
        if (result != (ssize_t)length || !all_held(read)) {
            load_lost(read, result != (ssize_t)length);
            return;
        }
    }
    load_complete(read);
}

static void load_done(void *context, ssize_t result)
{
    struct device_read *read = context;
    size_t in_chunk, in_read, first, length;
    read_piece_range(&read->pieces[read->load_first], &in_chunk, &first, &length);
    read_piece_range(&read->pieces[read->load_end - 1], &in_chunk, &in_read, &length);
    bool complete = result == (ssize_t)(in_read + length - first);
    if (complete && all_held(read))
        load_go_on(read);
    else
        load_lost(read, !complete);
}

void read_load(struct device_read *read)
{
    read->buffer = malloc(read->length);
    if (!read->buffer) {
        load_failed(read);
        return;
    }
    read_copy_pieces(read, read->buffer);
    load_go_on(read);
}
