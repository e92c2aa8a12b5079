/*
 * Which chunks are fetched next, in one range.
 *
 * The most urgent chunk that has been wanted for longest decides; wanted chunks
 * beside it come along as far as range and memory allow. What a reader waits
 * for is not held up: chunks in front of it, and those that are filled only,
 * stay behind.
 */
#include <stdlib.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"

/* What is filled while there are readers comes in pieces that these hardly notice. */
#define FILL_PIECE_BESIDE_READERS (1u << 20)
#define READERS_GONE_MS           1000u

/* Bytes of the blob that nobody asked for: at 1 Gbit/s they take a millisecond, and what they
 * decode to is stored, too. */
#define GAP_MAX (128u << 10)

/* Left for readers who come while others' ranges are under way. */
#define RANGES_FOR_DEMAND 2u
/* One arrives while the next is asked for. */
#define RANGES_OF_FILL 2u

static bool continues(const struct chunk_table *table, uint32_t chunk)
{
    return chunk < table->chunk_count && table->chunks[chunk].start == CHUNK_CONTINUES;
}

static size_t least(size_t left, size_t right)
{
    return left < right ? left : right;
}

static bool readers_are_here(struct data_path *path)
{
    return path->demanded && data_path_idle_ms(path) < READERS_GONE_MS;
}

size_t run_piece_limit(const struct data_path *path)
{
    size_t limit = path->memory.limit / 4;
    if (limit < (64u << 10)) limit = 64u << 10;
    return least(limit, RANGE_LENGTH_MAX);
}

/* ---- what a run takes along ---- */

static bool fits(const struct run *run, uint32_t first, uint32_t last)
{
    uint64_t offset, length;
    chunk_table_blob_range(run->device->table, first, last, &offset, &length);
    return length <= run->piece;
}

bool run_may_take(const struct layer_device *device, uint32_t chunk)
{
    enum chunk_state state = chunk_state(device, chunk);
    return (state == CHUNK_ABSENT || state == CHUNK_WANTED) &&
           !layer_cache_generation(device->cache, chunk) && !continues(device->table, chunk) &&
           !continues(device->table, chunk + 1) && !run_in_place(device, chunk, chunk);
}

static bool is_wanted(const struct layer_device *device, uint32_t chunk, enum urgency least)
{
    return chunk_state(device, chunk) == CHUNK_WANTED &&
           active_chunk_find(device, chunk)->urgency <= least;
}

uint64_t run_blob_length(const struct chunk_table *table, uint32_t first, uint32_t last)
{
    uint64_t offset, length;
    chunk_table_blob_range(table, first, last, &offset, &length);
    return length;
}

/* Where a batch takes it along, another range costs nothing, and a gap its bytes. */
static uint64_t gap_max(const struct run *run)
{
    return run->urgency == URGENCY_PROFILE && range_batch_max(run->device->path) > 1 ? 0 : GAP_MAX;
}

/* The next chunk behind the run that is wanted, across a gap that is cheaper than a request; or the
 * run's last. */
static uint32_t next_behind(const struct run *run, enum urgency least)
{
    const struct layer_device *device = run->device;
    for (uint32_t i = run->last + 1; i < device->table->chunk_count; i++) {
        if (!run_may_take(device, i) || !fits(run, run->first, i)) break;
        if (is_wanted(device, i, least)) return i;
        if (run_blob_length(device->table, run->last + 1, i) > gap_max(run)) break;
    }
    return run->last;
}

static uint32_t next_before(const struct run *run, enum urgency least)
{
    const struct layer_device *device = run->device;
    for (uint32_t i = run->first; i-- > 0;) {
        if (!run_may_take(device, i) || !fits(run, i, run->last)) break;
        if (is_wanted(device, i, least)) return i;
        if (run_blob_length(device->table, i, run->first - 1) > gap_max(run)) break;
    }
    return run->first;
}

static void choose_single(struct run *run)
{
    enum urgency behind = run->urgency == URGENCY_FILL ? URGENCY_FILL : URGENCY_PROFILE;
    uint32_t next;
    for (; (next = next_behind(run, behind)) != run->last; run->last = next)
        continue;
    for (; (next = next_before(run, run->urgency)) != run->first; run->first = next)
        continue;
    run->wanted_last = run->last;
    if (run->urgency == URGENCY_DEMAND && run->device->path->neighbours)
        neighbours_take_behind(run);
    run->wanted_last = run->last;
}

static void choose_row(struct run *run)
{
    const struct layer_device *device = run->device;
    while (continues(device->table, run->last + 1))
        run->last++;
    for (uint32_t i = run->wanted_last; i <= run->last; i++)
        if (chunk_state(device, i) == CHUNK_WANTED) run->wanted_last = i;
}

void run_place(struct run *run)
{
    uint64_t length;
    chunk_table_blob_range(run->device->table, run->first, run->last, &run->start, &length);
    run->end = run->start + length;
    run->next = run->first;
    run->fetched = run->start;
}

static void choose(struct run *run, uint32_t chunk)
{
    const struct chunk_table *table = run->device->table;
    run->first = chunk_table_checkpoint(table, chunk);
    run->last = run->wanted_last = chunk;
    if (run->first == chunk && !continues(table, chunk + 1))
        choose_single(run);
    else
        choose_row(run);
    run_place(run);
}

/* ---- memory ---- */

/* Of the chunks that are ahead; looking at them all would take long in a long row. */
static size_t longest_chunk(const struct chunk_table *table, uint32_t first, uint32_t last)
{
    uint64_t longest = 0;
    for (uint32_t i = first; i <= last && i < first + 64; i++)
        if (chunk_length(table, i) > longest) longest = chunk_length(table, i);
    return last - first < 64 ? (size_t)longest : CHUNK_LENGTH_MAX;
}

void run_measure(struct run *run)
{
    const struct layer_device *device = run->device;
    uint64_t body = run->end - run->start;
    run->body_memory = body < run->piece ? (size_t)body : run->piece;
    run->decoded_memory = longest_chunk(device->table, run->next, run->last);
    run->decoder_memory = chunk_decoder_memory_max(device->table);
}

size_t run_memory(const struct run *run)
{
    return run->body_memory + run->decoded_memory + run->decoder_memory;
}

/* ---- starting ---- */

static unsigned ranges_left(const struct data_path *path, enum urgency urgency)
{
    unsigned limit = path->ranges_limit;
    if (urgency == URGENCY_DEMAND) return path->ranges < limit ? limit - path->ranges : 0;
    limit = limit > RANGES_FOR_DEMAND ? limit - RANGES_FOR_DEMAND : 1;
    if (urgency == URGENCY_FILL && limit > RANGES_OF_FILL) limit = RANGES_OF_FILL;
    if (path->ranges >= path->ranges_limit || path->ranges_ahead >= limit) return 0;
    return limit - path->ranges_ahead;
}

/* Of what may be under way ahead of readers, half is asked for when the other half has come. */
static bool link_has_room(const struct data_path *path)
{
    return path->ahead_bytes <= link_speed_ahead_bytes(&path->link) / 2;
}

static bool may_start(struct data_path *path, enum urgency urgency)
{
    if (ranges_left(path, urgency) == 0) return false;
    if (urgency == URGENCY_DEMAND) return true;
    if (!link_has_room(path)) return false;
    if (urgency != URGENCY_FILL) return true;
    if (readers_are_here(path) && path->ranges_ahead > 0) return false;
    return fill_rate_allows(path);
}

static size_t piece_of(struct data_path *path, enum urgency urgency)
{
    size_t limit = run_piece_limit(path);
    if (urgency == URGENCY_DEMAND) return limit;
    limit = least(limit, link_speed_ahead_bytes(&path->link));
    if (urgency != URGENCY_FILL) return limit;
    if (readers_are_here(path)) limit = least(limit, FILL_PIECE_BESIDE_READERS);
    uint64_t rate = path->fill_rate.bytes_per_second;
    return rate > 0 && rate < limit ? (size_t)rate : limit;
}

enum start_result { STARTED, NOT_NOW, NO_MEMORY };

static enum start_result start_for(struct active_chunk *record, struct actions *actions)
{
    struct layer_device *device = record->device;
    struct data_path *path = device->path;
    bool demand = record->urgency == URGENCY_DEMAND;
    struct run plan = { .device = device,
                        .urgency = record->urgency,
                        .memory_kind = demand ? MEMORY_RUN : MEMORY_AHEAD,
                        .piece = piece_of(path, record->urgency) };
    choose(&plan, record->chunk);
    struct run *other = run_in_place(device, plan.first, plan.last);
    if (other && other->state != RUN_SUSPENDED) return NOT_NOW;
    run_measure(&plan);
    struct run *run = malloc(sizeof *run);
    if (!run || !memory_hold(&path->memory, plan.memory_kind, run_memory(&plan))) {
        free(run);
        return NO_MEMORY;
    }
    if (other) run_end(other, actions); /* it went past the chunk, which was lost since */
    *run = plan;
    run_begin(run, actions);
    if (plan.neighbours) neighbours_start_before(&plan, actions);
    return STARTED;
}

/* Bytes of a batch after which nothing more joins it: what comes last waits for the others. */
#define BATCH_LENGTH (4u << 20)

/* Puts runs of one layer together. */
static enum start_result start_batch(struct data_path *path, enum urgency urgency,
                                     struct actions *actions)
{
    unsigned most = range_batch_max(path), count = 0;
    const struct layer_device *device = NULL;
    struct active_chunk *record = TAILQ_FIRST(&path->wanted[urgency]);
    enum start_result result = NOT_NOW;
    size_t longest = least(BATCH_LENGTH, link_speed_ahead_bytes(&path->link));
    path->batch = (struct run_batch){ .number = most > 1 ? ++path->batches : 0 };
    while (record && count < most && path->batch.length < longest) {
        const struct layer_device *other = record->device;
        result = !device || other == device ? start_for(record, actions) : NOT_NOW;
        if (result == NO_MEMORY) break;
        if (result == STARTED) {
            device = other;
            count++;
            record = TAILQ_FIRST(&path->wanted[urgency]); /* took others out of the queue too */
        } else {
            record = TAILQ_NEXT(record, queue);
        }
    }
    path->batch = (struct run_batch){ 0 };
    return count > 0 && result != NO_MEMORY ? STARTED : result;
}

/* Where one request may ask for many ranges, it waits until there is memory for many. */
static bool has_room_for_batch(const struct data_path *path)
{
    return range_batch_max(path) == 1 ||
           memory_has_room(&path->memory, MEMORY_AHEAD, path->memory.limit / 4);
}

/* As start_queue(). */
static bool start_batches(struct data_path *path, enum urgency urgency, struct actions *actions)
{
    while (!TAILQ_EMPTY(&path->wanted[urgency]) && may_start(path, urgency)) {
        if (!has_room_for_batch(path)) return false;
        enum start_result result = start_batch(path, urgency, actions);
        if (result != STARTED) return result == NOT_NOW;
    }
    return true;
}

/* False: nothing more can be started now, however urgent it is or not. */
static bool start_queue(struct data_path *path, enum urgency urgency, struct actions *actions)
{
    struct active_chunk *record = TAILQ_FIRST(&path->wanted[urgency]);
    while (record && may_start(path, urgency)) {
        switch (start_for(record, actions)) {
        case STARTED: /* took others out of the queue too */
            record = TAILQ_FIRST(&path->wanted[urgency]);
            break;
        case NOT_NOW:
            record = TAILQ_NEXT(record, queue);
            break;
        case NO_MEMORY:
            return false;
        }
    }
    return true;
}

void run_start_wanted(struct data_path *path, struct actions *actions)
{
    for (unsigned i = 0; i < URGENCIES; i++) {
        /* Readers and what is filled go forward; what a profile names is everywhere. */
        bool scattered = i == URGENCY_PROFILE;
        if (!(scattered ? start_batches : start_queue)(path, (enum urgency)i, actions)) return;
    }
}
