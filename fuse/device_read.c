/*
 * A read that could not be answered at once: one piece for each chunk it
 * touches. When the last piece's chunk is here, the bytes in memory are handed
 * out; what is only in the cache file is loaded first.
 *
 * Pieces hold the bytes they got until the whole read is answered, so that a
 * chunk that cannot be stored (disk full) is not fetched over and over for a
 * read that needs two.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/layer_places-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/read_ahead-internal.h"
#include "fuse/recent_failure-internal.h"
#include "fuse/thread_buffer-internal.h"

/* ---- where a piece is ---- */

void read_piece_range(const struct read_piece *piece, size_t *ret_in_chunk, size_t *ret_in_read,
                      size_t *ret_length)
{
    const struct device_read *read = piece->read;
    const struct chunk_table *table = read->device->table;
    uint64_t chunk_start = table->chunks[piece->chunk].stream_offset;
    uint64_t chunk_end = chunk_start + chunk_length(table, piece->chunk);
    uint64_t start = read->offset > chunk_start ? read->offset : chunk_start;
    uint64_t end = read->offset + read->data_length;
    if (end > chunk_end) end = chunk_end;
    *ret_in_chunk = (size_t)(start - chunk_start);
    *ret_in_read = (size_t)(start - read->offset);
    *ret_length = (size_t)(end - start);
}

/* ---- answering ---- */

static void count_waiting(const struct device_read *read, uint64_t count)
{
    atomic_fetch_add(&read->device->path->all.reads_waiting, count);
    if (read->reader) atomic_fetch_add(&read->reader->reads_waiting, count);
}

void read_reply(const struct device_read *read, const void *data, ssize_t result)
{
    count_waiting(read, -UINT64_C(1));
    device_reader_count(&read->device->path->all, read->missed, result);
    device_reader_count(read->reader, read->missed, result);
    read->done(read->context, data, result);
}

/* Under the lock. */
void read_unreference(struct device_read *read, struct actions *actions)
{
    if (--read->references > 0) return;
    for (uint32_t i = 0; i < read->piece_count; i++)
        if (read->pieces[i].bytes)
            chunk_bytes_unreference(read->device->path, read->pieces[i].bytes, actions);
    device_idle(read->device);
    free(read);
}

void read_release(struct device_read *read)
{
    struct data_path *path = read->device->path;
    struct actions actions;
    data_path_enter(path, &actions);
    read_unreference(read, &actions);
    data_path_leave(path, &actions);
}

void read_copy_pieces(const struct device_read *read, uint8_t *buffer)
{
    size_t in_chunk, in_read, length;
    for (uint32_t i = 0; i < read->piece_count; i++) {
        const struct read_piece *piece = &read->pieces[i];
        if (!piece->bytes) continue;
        read_piece_range(piece, &in_chunk, &in_read, &length);
        memcpy(buffer + in_read, piece->bytes->data + in_chunk, length);
    }
    memset(buffer + read->data_length, 0, read->length - read->data_length);
}

void read_answer(struct device_read *read)
{
    size_t in_chunk, in_read, length;
    read_piece_range(&read->pieces[0], &in_chunk, &in_read, &length);
    if (length == read->length) {
        read_reply(read, read->pieces[0].bytes->data + in_chunk, (ssize_t)length);
    } else {
        uint8_t *buffer = thread_buffer_take(read->length);
        if (buffer) {
            read_copy_pieces(read, buffer);
            read_reply(read, buffer, (ssize_t)read->length);
        } else {
            read_reply(read, NULL, -ENOMEM);
        }
        thread_buffer_give(buffer);
    }
    read_release(read);
}

void read_answer_failure(struct device_read *read)
{
    read_reply(read, NULL, -EIO);
    read_release(read);
}

void read_answer_expired(struct device_read *read)
{
    read_answer_failure(read);
}

/* ---- parking ---- */

static bool is_in_memory(const struct device_read *read)
{
    for (uint32_t i = 0; i < read->piece_count; i++)
        if (!read->pieces[i].bytes) return false;
    return true;
}

/* No piece waits any more. */
static void all_here(struct device_read *read, struct actions *actions)
{
    struct data_path *path = read->device->path;
    if (is_in_memory(read)) {
        read->state = READ_FINISHING;
        TAILQ_REMOVE(&path->parked, read, parked);
        STAILQ_INSERT_TAIL(&actions->answers, read, action);
    } else {
        read->state = READ_QUEUED;
        TAILQ_INSERT_TAIL(&path->loads, read, queue);
    }
}

void read_piece_is_here(struct read_piece *piece, struct actions *actions)
{
    struct device_read *read = piece->read;
    if (--read->waiting == 0 && read->state == READ_WAITING) all_here(read, actions);
}

/* Only the registry has the chunk, and could not give it just now. */
static bool is_hopeless(const struct read_piece *piece)
{
    const struct layer_device *device = piece->read->device;
    switch (chunk_state(device, piece->chunk)) {
    case CHUNK_ABSENT:
        return !layer_cache_generation(device->cache, piece->chunk) &&
               failure_is_recent(device, piece->chunk);
    case CHUNK_WANTED:
    case CHUNK_FETCHING:
        return failure_is_recent(device, piece->chunk);
    case CHUNK_CHECKING:
    case CHUNK_READY:
    case CHUNK_PRESENT:
        break;
    }
    return false;
}

/* Waits for every piece that has no bytes yet. */
void read_await(struct device_read *read, struct actions *actions)
{
    read->state = READ_WAITING;
    read->waiting = 1; /* so that nothing is finished before the last piece was looked at */
    for (uint32_t i = 0; i < read->piece_count; i++) {
        struct read_piece *piece = &read->pieces[i];
        if (piece->bytes) continue;
        chunk_refresh(read->device, piece->chunk);
        if (is_hopeless(piece) || chunk_await(read->device, piece, actions) < 0) {
            read_fail(read, actions);
            return;
        }
        if (read->state != READ_WAITING) return; /* failed at once */
        if (piece->awaits) read->waiting++;
    }
    if (--read->waiting == 0) all_here(read, actions);
}

static struct device_read *read_new(struct layer_device *device, uint64_t offset, size_t length,
                                    size_t data_length, uint32_t first, uint32_t count)
{
    struct device_read *read = calloc(1, sizeof *read + count * sizeof read->pieces[0]);
    if (!read) return NULL;
    read->device = device;
    read->offset = offset;
    read->length = length;
    read->data_length = data_length;
    read->references = 1;
    read->piece_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct read_piece *piece = &read->pieces[i];
        piece->read = read;
        piece->chunk = first + i;
    }
    return read;
}

void read_park(struct layer_device *device, struct device_reader *reader, uint64_t offset,
               size_t length, size_t data_length, uint32_t first_chunk, uint32_t last_chunk,
               device_read_done *done, void *context)
{
    struct data_path *path = device->path;
    struct device_read *read =
        read_new(device, offset, length, data_length, first_chunk, last_chunk - first_chunk + 1);
    if (!read) {
        done(context, NULL, -ENOMEM);
        return;
    }
    read->reader = reader;
    read->done = done;
    read->context = context;
    struct actions actions;
    data_path_enter(path, &actions);
    device_busy(device);
    count_waiting(read, 1);
    read->deadline = clock_ms() + path->read_timeout_ms;
    if (TAILQ_EMPTY(&path->parked)) pthread_cond_signal(&path->timer_wake);
    TAILQ_INSERT_TAIL(&path->parked, read, parked);
    if (device->closing) {
        read_fail(read, &actions);
    } else {
        read_await(read, &actions);
        if (read->missed)
            ahead_missed(device, first_chunk, last_chunk, &actions);
        else
            ahead_found(device, first_chunk, last_chunk, &actions);
    }
    data_path_leave(path, &actions);
}

uint64_t read_has_waited(const struct device_read *read)
{
    return clock_ms() + read->device->path->read_timeout_ms - read->deadline;
}

bool read_is_nearly_over(const struct device_read *read)
{
    uint64_t whole = read->device->path->read_timeout_ms;
    return read_has_waited(read) >= whole - whole / 5;
}

/* ---- giving up ---- */

/* Out of every list; its pieces wait no longer. */
static void withdraw(struct device_read *read, struct actions *actions)
{
    for (uint32_t i = 0; i < read->piece_count; i++)
        if (read->pieces[i].awaits) chunk_forsake(&read->pieces[i], actions);
    if (read->state == READ_QUEUED) TAILQ_REMOVE(&read->device->path->loads, read, queue);
    TAILQ_REMOVE(&read->device->path->parked, read, parked);
    read->state = READ_FINISHING;
}

void read_fail(struct device_read *read, struct actions *actions)
{
    withdraw(read, actions);
    STAILQ_INSERT_TAIL(&actions->failures, read, action);
}

/* A read that is loading cannot be called back from the disk, but it can be answered. */
static void expire(struct device_read *read, struct actions *actions)
{
    for (uint32_t i = 0; i < read->piece_count; i++)
        if (read->pieces[i].awaits) failure_note(read->device, read->pieces[i].chunk);
    if (read->state != READ_LOADING) {
        read_fail(read, actions);
        return;
    }
    TAILQ_REMOVE(&read->device->path->parked, read, parked);
    read->expired = true;
    read->references++;
    STAILQ_INSERT_TAIL(&actions->expirations, read, action);
}

/* A disk that does not take what is being stored keeps the memory that others wait for. */
static const char *who_keeps_waiting(const struct device_read *read)
{
    const struct memory_budget *memory = &read->device->path->memory;
    bool disk = read->state != READ_WAITING || memory->storing > memory->limit / 2;
    return disk ? "the cache's disk" : device_place(read->device)->registry;
}

void read_expire_due(struct data_path *path, struct actions *actions)
{
    struct device_read *read = TAILQ_FIRST(&path->parked);
    struct layer_device *device = read->device;
    const struct layer_place *place = device_place(device);
    const char *who = who_keeps_waiting(read);
    uint64_t offset = read->offset, now = clock_ms();
    unsigned count = 0;
    for (; read && read->deadline <= now; read = TAILQ_FIRST(&path->parked)) {
        expire(read, actions);
        count++;
    }
    if (count > 0)
        device_report(device, actions,
                      "layer %s... of %s/%s: no bytes for offset %llu from %s within %u ms "
                      "(%u reads); readers get an I/O error and may try again",
                      device->name, place->registry, place->repository, (unsigned long long)offset,
                      who, path->read_timeout_ms, count);
}
