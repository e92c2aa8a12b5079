/*
 * Which chunks are fetched next, in one range.
 *
 * The chunk that has been wanted for longest decides; wanted chunks beside it
 * come along as far as range and memory allow. Where chunks continue each other
 * the run goes to the end of their row, but stops (is suspended) as soon as
 * nobody wants what comes next: a reader that goes on finds the decoder where
 * it stopped, instead of starting at the checkpoint again.
 */
#include <stdlib.h>

#include "fuse/layer_device-internal.h"

/* Decoded bytes that one run holds memory for. */
#define RUN_DECODED_MAX ((size_t)2 * CHUNK_LENGTH_MAX)

static bool continues(const struct chunk_table *table, uint32_t chunk)
{
    return chunk < table->chunk_count && table->chunks[chunk].start == CHUNK_CONTINUES;
}

static size_t least(size_t left, size_t right)
{
    return left < right ? left : right;
}

/* The longest piece of a blob that is asked for at once. */
static size_t piece_limit(const struct data_path *path)
{
    size_t limit = path->memory.limit / 4;
    if (limit < (64u << 10)) limit = 64u << 10;
    return least(limit, RANGE_LENGTH_MAX);
}

/* ---- what a run takes along ---- */

static uint64_t decoded_length(const struct chunk_table *table, uint32_t first, uint32_t last)
{
    return table->chunks[last].stream_offset + chunk_length(table, last) -
           table->chunks[first].stream_offset;
}

static bool fits(const struct layer_device *device, uint32_t first, uint32_t last)
{
    const struct data_path *path = device->path;
    uint64_t offset, length;
    chunk_table_blob_range(device->table, first, last, &offset, &length);
    return length <= piece_limit(path) && decoded_length(device->table, first, last) <=
                                              least(RUN_DECODED_MAX, path->memory.limit / 4);
}

/* A chunk that neither continues another nor is continued, and is wanted. */
static bool may_come_along(const struct layer_device *device, uint32_t chunk)
{
    return chunk_state(device, chunk) == CHUNK_WANTED && !continues(device->table, chunk) &&
           !continues(device->table, chunk + 1);
}

static void choose_single(const struct layer_device *device, struct run *run)
{
    while (run->last + 1 < device->table->chunk_count && may_come_along(device, run->last + 1) &&
           fits(device, run->first, run->last + 1))
        run->last++;
    while (run->first > 0 && may_come_along(device, run->first - 1) &&
           fits(device, run->first - 1, run->last))
        run->first--;
    run->wanted_last = run->last;
}

static void choose_row(const struct layer_device *device, struct run *run)
{
    while (continues(device->table, run->last + 1))
        run->last++;
    for (uint32_t i = run->wanted_last; i <= run->last; i++)
        if (chunk_state(device, i) == CHUNK_WANTED) run->wanted_last = i;
}

static void choose(const struct layer_device *device, uint32_t chunk, struct run *run)
{
    run->first = chunk_table_checkpoint(device->table, chunk);
    run->last = run->wanted_last = chunk;
    if (run->first == chunk && !continues(device->table, chunk + 1))
        choose_single(device, run);
    else
        choose_row(device, run);
    uint64_t length;
    chunk_table_blob_range(device->table, run->first, run->last, &run->start, &length);
    run->end = run->start + length;
    run->next = run->first;
    run->fetched = run->start;
}

/* ---- memory ---- */

static void measure(struct run *run)
{
    const struct layer_device *device = run->device;
    uint64_t body = run->end - run->start;
    uint64_t decoded = decoded_length(device->table, run->first, run->wanted_last);
    run->body_memory = body < piece_limit(device->path) ? (size_t)body : piece_limit(device->path);
    run->decoded_memory = decoded < RUN_DECODED_MAX ? (size_t)decoded : RUN_DECODED_MAX;
    run->decoder_memory = chunk_decoder_memory_max(device->table);
}

static size_t memory_of(const struct run *run)
{
    return run->body_memory + run->decoded_memory + run->decoder_memory;
}

static void let_memory_go(struct run *run)
{
    struct data_path *path = run->device->path;
    size_t bytes = memory_of(run);
    if (run->state == RUN_SUSPENDED) {
        memory_release(&path->memory, bytes);
        path->suspended_bytes -= bytes;
    } else {
        memory_let_go(&path->memory, MEMORY_RUN, bytes);
    }
    run->body_memory = run->decoded_memory = run->decoder_memory = 0;
}

/* ---- beginning ---- */

static struct run *run_in_place(const struct layer_device *device, uint32_t first, uint32_t last)
{
    struct run *run;
    TAILQ_FOREACH(run, &device->path->runs, link)
    if (run->device == device && run->first <= last && first <= run->last) return run;
    return NULL;
}

static void mark_fetching(struct run *run)
{
    for (uint32_t i = run->first; i <= run->wanted_last; i++)
        if (chunk_state(run->device, i) == CHUNK_WANTED)
            chunk_fetching(active_chunk_find(run->device, i));
}

/* Asks for the window and the blob's bytes at the same time. */
static void begin(struct run *run, struct actions *actions)
{
    const struct chunk *chunk = &run->device->table->chunks[run->first];
    device_busy(run->device);
    TAILQ_INSERT_TAIL(&run->device->path->runs, run, link);
    mark_fetching(run);
    if (chunk->start == CHUNK_WINDOW) {
        run->windows = window_group_use(run->device, chunk->window / WINDOWS_PER_GROUP);
        if (!run->windows) {
            run->state = RUN_WAITING;
            run_fail(run, "out of memory", actions);
            return;
        }
    }
    run_fetch_piece(run, actions);
}

enum start_result { STARTED, NOT_NOW, NO_MEMORY };

static enum start_result start_for(struct active_chunk *record, struct actions *actions)
{
    struct layer_device *device = record->device;
    struct run plan = { .device = device };
    choose(device, record->chunk, &plan);
    struct run *other = run_in_place(device, plan.first, plan.last);
    if (other && other->state != RUN_SUSPENDED) return NOT_NOW;
    measure(&plan);
    struct run *run = malloc(sizeof *run);
    if (!run || !memory_hold(&device->path->memory, MEMORY_RUN, memory_of(&plan))) {
        free(run);
        return NO_MEMORY;
    }
    if (other) run_end(other, actions); /* it went past the chunk, which was lost since */
    *run = plan;
    begin(run, actions);
    return STARTED;
}

void run_start_wanted(struct data_path *path, struct actions *actions)
{
    struct active_chunk *record = TAILQ_FIRST(&path->wanted);
    while (record && path->ranges < path->ranges_limit) {
        switch (start_for(record, actions)) {
        case STARTED: /* took others out of the queue too */
            record = TAILQ_FIRST(&path->wanted);
            break;
        case NOT_NOW:
            record = TAILQ_NEXT(record, queue);
            break;
        case NO_MEMORY:
            return;
        }
    }
}

/* ---- the range ---- */

static void body_arrived(void *owner, struct buffer *body, struct error *error)
{
    struct run *run = owner;
    struct layer_device *device = run->device;
    struct data_path *path = device->path;
    struct actions actions;
    data_path_enter(path, &actions);
    run->request = NULL;
    path->ranges--;
    if (body) {
        atomic_fetch_add(&path->counters.bytes_fetched, body->length);
        run->fetched += body->length;
        run->body = *body;
        run->body_used = 0;
        run->state = RUN_WAITING;
        run_continue(run, &actions);
    } else {
        error_prefix(&error, "chunk %u", run->next);
        run->state = RUN_WAITING;
        run_fail(run, error_message(error), &actions);
    }
    data_path_leave(path, &actions);
    error_free(error);
}

void run_fetch_piece(struct run *run, struct actions *actions)
{
    struct layer_device *device = run->device;
    uint64_t left = run->end - run->fetched;
    size_t length = left < run->body_memory ? (size_t)left : run->body_memory;
    run->request = range_request_new(device, &device->table->blob_digest, run->fetched, length,
                                     body_arrived, run, actions);
    if (!run->request) {
        run->state = RUN_WAITING;
        run_fail(run, "out of memory", actions);
        return;
    }
    run->state = RUN_FETCHING;
    device->path->ranges++;
}

void run_continue(struct run *run, struct actions *actions)
{
    if (run->state != RUN_WAITING) return;
    if (run->device->closing) {
        run_end(run, actions);
    } else if (run->windows && run->windows->state == WINDOWS_FAILED) {
        const char *reason = run->windows->failure;
        run_fail(run, reason ? reason : "out of memory", actions);
    } else if (!run->windows || run->windows->state == WINDOWS_READY) {
        run->state = RUN_DECODING;
        run->job.work = run_decode_job;
        worker_pool_add(run->device->path->workers, &run->job);
    }
}

/* ---- going on ---- */

struct run *run_toward(const struct layer_device *device, uint32_t chunk)
{
    struct run *run = run_in_place(device, chunk, chunk);
    return run && run->next <= chunk && !device->closing ? run : NULL;
}

/* Somebody wants more of a suspended run: its memory is counted again, whether it fits or not,
 * for there are few of them. */
static void resume(struct run *run, struct actions *actions)
{
    struct data_path *path = run->device->path;
    let_memory_go(run);
    measure(run);
    path->memory.holders[MEMORY_RUN]++;
    memory_charge(&path->memory, memory_of(run));
    run->state = RUN_WAITING;
    if (run->body_used < run->body.length)
        run_continue(run, actions);
    else
        run_fetch_piece(run, actions);
}

void run_extend(struct run *run, uint32_t chunk, struct actions *actions)
{
    if (chunk > run->wanted_last) run->wanted_last = chunk;
    if (run->state == RUN_SUSPENDED) resume(run, actions);
}

static bool another_is_suspended(const struct data_path *path, const struct run *newest)
{
    const struct run *run;
    TAILQ_FOREACH(run, &path->runs, link)
    if (run != newest && run->state == RUN_SUSPENDED) return true;
    return false;
}

/* Gives memory back: first the bytes that can be fetched again at the price of themselves, then a
 * decoder, whose row of chunks would have to be fetched again from its start. */
static void shed_suspended(struct data_path *path, const struct run *spared,
                           struct actions *actions)
{
    struct run *run, *oldest = NULL;
    TAILQ_FOREACH(run, &path->runs, link)
    {
        if (run->state != RUN_SUSPENDED || run == spared) continue;
        if (!oldest) oldest = run;
        if (run->body_memory == 0) continue;
        memory_release(&path->memory, run->body_memory);
        path->suspended_bytes -= run->body_memory;
        run->body_memory = 0;
        run->fetched -= run->body.length - run->body_used;
        buffer_free(&run->body);
        run->body_used = 0;
        return;
    }
    if (oldest) run_end(oldest, actions);
}

void run_suspend(struct run *run, struct actions *actions)
{
    struct data_path *path = run->device->path;
    let_memory_go(run);
    run->state = RUN_SUSPENDED;
    run->attempts = 0;
    run->body_memory = run->body.length;
    run->decoder_memory = chunk_decoder_memory(run->decoder);
    memory_charge(&path->memory, memory_of(run));
    path->suspended_bytes += memory_of(run);
    TAILQ_REMOVE(&path->runs, run, link);
    TAILQ_INSERT_TAIL(&path->runs, run, link);
    /* The newest stays, however much its decoder holds: without it each read of a layer in one
     * zstd frame would decode the frame from its start. */
    while (path->suspended_bytes > path->memory.limit / 2 && another_is_suspended(path, run))
        shed_suspended(path, run, actions);
}

/* ---- ending ---- */

void run_free(struct run *run)
{
    chunk_decoder_free(run->decoder);
    buffer_free(&run->body);
    free(run);
}

void run_end(struct run *run, struct actions *actions)
{
    struct layer_device *device = run->device;
    uint32_t first = run->first, wanted_last = run->wanted_last;
    if (run->windows) window_group_leave(run->windows);
    TAILQ_REMOVE(&device->path->runs, run, link);
    let_memory_go(run);
    STAILQ_INSERT_TAIL(&actions->dead_runs, run, action);
    /* From behind, so that the first is in front of the queue in the end. */
    for (uint32_t i = wanted_last + 1; i-- > first;) {
        struct active_chunk *record =
            chunk_state(device, i) == CHUNK_FETCHING ? active_chunk_find(device, i) : NULL;
        if (record && TAILQ_EMPTY(&record->waiters))
            chunk_give_up(record, actions);
        else if (record)
            chunk_want(record, true, actions);
    }
    device_idle(device);
}

static void fail_chunks(struct run *run, uint32_t last, struct actions *actions)
{
    for (uint32_t i = run->first; i <= last; i++) {
        if (chunk_state(run->device, i) != CHUNK_FETCHING) continue;
        chunk_fail(active_chunk_find(run->device, i), actions);
    }
}

static void report(struct run *run, const char *reason, struct actions *actions)
{
    const struct layer_device *device = run->device;
    data_path_report(device->path, actions, "layer %s...: %s", device->name, reason);
}

void run_fail_until(struct run *run, uint32_t last, const char *reason, struct actions *actions)
{
    if (!run->device->closing) report(run, reason, actions);
    fail_chunks(run, last, actions);
    run_end(run, actions);
}

void run_fail(struct run *run, const char *reason, struct actions *actions)
{
    run_fail_until(run, run->wanted_last, reason, actions);
}

void run_close_device(struct layer_device *device, struct actions *actions)
{
    struct data_path *path = device->path;
    struct run *run, *next;
    for (run = TAILQ_FIRST(&path->runs); run; run = next) {
        next = TAILQ_NEXT(run, link);
        if (run->device != device) continue;
        switch (run->state) {
        case RUN_FETCHING:
            if (!range_request_abandon(run->request)) break; /* the answer is coming this moment */
            path->ranges--;
            run_end(run, actions);
            break;
        case RUN_WAITING:
        case RUN_SUSPENDED:
            run_end(run, actions);
            break;
        case RUN_DECODING: /* sees that the device closes */
            break;
        }
    }
}
