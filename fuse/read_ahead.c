/*
 * Chunks that a reader who goes forward will want next.
 *
 * A device watches a few readers at a time by the chunks that they miss. One
 * that misses a chunk close behind its last has the next one fetched ahead; when it
 * comes to what was fetched ahead last, which the path of a hit sees by a mark,
 * twice as much is, up to what keeps the link busy. Who reads here and there
 * has nothing fetched, nor has who reads what a profile names: it would name the
 * next chunk, too, if that were wanted.
 */
#include "fuse/layer_device-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/read_ahead-internal.h"
#include "fuse/supply-internal.h"

/* One who goes forward may leave so many chunks out: a program's parts lie in its file in about the
 * order in which they are used, but not all are. */
#define STRIDE_MAX 4u

/* The first chunk of a layer is never fetched ahead. */
#define NO_MARK 0u

/* Bytes of the stream that probably come out of that many of the blob. */
static uint64_t decoded(const struct chunk_table *table, uint64_t blob_bytes)
{
    double ratio = (double)table->stream_length / (double)table->blob_length;
    return (uint64_t)((double)blob_bytes * ratio);
}

/* Names the next chunks, for so many bytes of the stream, but one at least. */
static void fetch_window(struct layer_device *device, struct ahead_reader *reader,
                         struct actions *actions)
{
    const struct chunk_table *table = device->table;
    uint32_t first = reader->end, chunk = first;
    uint64_t most = decoded(table, link_speed_stream_bytes(&device->path->link)), named = 0;
    while (chunk < table->chunk_count && (chunk == first || named < reader->window)) {
        named += chunk_length(table, chunk);
        supply_name(device, chunk++, actions);
    }
    reader->end = chunk;
    reader->window = named * 2 < most ? named * 2 : most;
    atomic_store_explicit(&reader->mark, chunk > first ? first : NO_MARK, memory_order_relaxed);
}

/* Whose way the chunk is on: that of who touched it or the one before it last, or for whom it is
 * fetched ahead. */
static struct ahead_reader *reader_at(struct layer_device *device, uint32_t chunk)
{
    for (unsigned i = 0; i < AHEAD_READERS; i++) {
        struct ahead_reader *reader = &device->readers[i];
        if (reader->next == 0 || chunk + 1 < reader->next) continue;
        if (chunk <= reader->next + STRIDE_MAX || chunk < reader->end) return reader;
    }
    return NULL;
}

/* Instead of the one that was heard of longest ago. */
static struct ahead_reader *new_reader(struct layer_device *device, uint32_t next)
{
    struct ahead_reader *oldest = &device->readers[0];
    for (unsigned i = 1; i < AHEAD_READERS; i++)
        if (device->readers[i].heard_of < oldest->heard_of) oldest = &device->readers[i];
    oldest->next = oldest->end = next;
    oldest->window = 0;
    atomic_store_explicit(&oldest->mark, NO_MARK, memory_order_relaxed);
    return oldest;
}

/* Who wrote a profile has seen where its reader goes. */
static bool profile_knows(const struct layer_device *device, uint32_t chunk)
{
    return chunk_is_profiled(device, chunk) || (chunk > 0 && chunk_is_profiled(device, chunk - 1));
}

static void go_forward(struct layer_device *device, struct ahead_reader *reader, uint32_t last,
                       struct actions *actions)
{
    uint32_t mark = atomic_load_explicit(&reader->mark, memory_order_relaxed);
    reader->next = last + 1;
    if (reader->end < reader->next) reader->end = reader->next;
    if (profile_knows(device, last))
        atomic_store_explicit(&reader->mark, NO_MARK, memory_order_relaxed);
    else if (reader->end == reader->next || (mark != NO_MARK && last >= mark))
        fetch_window(device, reader, actions);
}

void ahead_missed(struct layer_device *device, uint32_t first, uint32_t last,
                  struct actions *actions)
{
    if (chunk_is_profiled(device, last)) return;
    struct ahead_reader *reader = reader_at(device, first);
    if (!reader)
        reader = new_reader(device, last + 1);
    else if (last >= reader->next)
        go_forward(device, reader, last, actions);
    reader->heard_of = ++device->heard_of;
}

/* May be called without the lock, to see whether there is a need for it. */
static struct ahead_reader *reader_with_mark(struct layer_device *device, uint32_t first,
                                             uint32_t last)
{
    for (unsigned i = 0; i < AHEAD_READERS; i++) {
        uint32_t mark = atomic_load_explicit(&device->readers[i].mark, memory_order_relaxed);
        if (mark != NO_MARK && mark >= first && mark <= last) return &device->readers[i];
    }
    return NULL;
}

void ahead_found(struct layer_device *device, uint32_t first, uint32_t last,
                 struct actions *actions)
{
    struct ahead_reader *reader = reader_with_mark(device, first, last);
    if (!reader || device->closing) return;
    go_forward(device, reader, last, actions);
    reader->heard_of = ++device->heard_of;
}

void ahead_hit(struct layer_device *device, uint32_t first, uint32_t last)
{
    if (!reader_with_mark(device, first, last)) return;
    struct actions actions;
    data_path_enter(device->path, &actions);
    ahead_found(device, first, last, &actions);
    data_path_leave(device->path, &actions);
}
