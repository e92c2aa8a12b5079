/*
 * The life of a run.
 *
 * Where chunks continue each other it goes to the end of their row, but stops
 * (is suspended) as soon as nobody wants what comes next: a reader that goes on
 * finds the decoder where it stopped, instead of starting at the checkpoint
 * again.
 */
#include <errno.h>
#include <stdlib.h>

#include "fuse/layer_device-internal.h"

static void let_memory_go(struct run *run)
{
    struct data_path *path = run->device->path;
    size_t bytes = run_memory(run);
    if (run->state == RUN_SUSPENDED) {
        memory_release(&path->memory, bytes);
        path->suspended_bytes -= bytes;
    } else {
        memory_let_go(&path->memory, run->memory_kind, bytes);
    }
    run->body_memory = run->decoded_memory = run->decoder_memory = 0;
}

/* ---- beginning ---- */

struct run *run_in_place(const struct layer_device *device, uint32_t first, uint32_t last)
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

void run_begin(struct run *run, struct actions *actions)
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

/* ---- the range ---- */

static void range_asked(struct run *run)
{
    struct data_path *path = run->device->path;
    run->ahead = run->urgency != URGENCY_DEMAND;
    path->ranges++;
    if (run->ahead) path->ranges_ahead++;
}

static void range_over(struct run *run)
{
    struct data_path *path = run->device->path;
    run->request = NULL;
    path->ranges--;
    if (run->ahead) path->ranges_ahead--;
}

static void body_arrived(void *owner, struct buffer *body, struct error *error)
{
    struct run *run = owner;
    struct layer_device *device = run->device;
    struct data_path *path = device->path;
    struct actions actions;
    data_path_enter(path, &actions);
    bool had_its_time = range_request_had_its_time(run->request);
    range_over(run);
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
        if (had_its_time)
            run_out_of_time(run, error_message(error), &actions);
        else
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
                                     body_arrived, run, run_wanted_until(run), actions);
    if (!run->request) {
        run->state = RUN_WAITING;
        run_fail(run, "out of memory", actions);
        return;
    }
    run->state = RUN_FETCHING;
    range_asked(run);
    if (run->urgency == URGENCY_FILL) fill_rate_use(device->path, length);
}

void run_continue(struct run *run, struct actions *actions)
{
    if (run->state != RUN_WAITING) return;
    if (run->device->closing) {
        run_end(run, actions);
    } else if (run->windows && run->windows->state == WINDOWS_FAILED) {
        const char *reason = run->windows->failure ? run->windows->failure : "out of memory";
        if (run->windows->had_its_time)
            run_out_of_time(run, reason, actions);
        else
            run_fail(run, reason, actions);
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
    run_measure(run);
    path->memory.holders[run->memory_kind]++;
    memory_charge(&path->memory, run_memory(run));
    run->state = RUN_WAITING;
    if (run->body_used < run->body.length)
        run_continue(run, actions);
    else
        run_fetch_piece(run, actions);
}

void run_hurry(const struct layer_device *device, uint32_t chunk, enum urgency urgency)
{
    struct run *run = run_in_place(device, chunk, chunk);
    if (run && urgency < run->urgency) run->urgency = urgency;
}

void run_extend(struct run *run, uint32_t chunk, enum urgency urgency, struct actions *actions)
{
    if (chunk > run->wanted_last) run->wanted_last = chunk;
    if (run->state == RUN_SUSPENDED || urgency < run->urgency) run->urgency = urgency;
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
    memory_charge(&path->memory, run_memory(run));
    path->suspended_bytes += run_memory(run);
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
        if (!record) continue;
        if (device->closing || !chunk_is_needed(record))
            chunk_give_up(record, -ECANCELED, actions);
        else
            chunk_want(record, true, actions);
    }
    device_idle(device);
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
            range_over(run);
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
