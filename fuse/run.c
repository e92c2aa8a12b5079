/*
 * The life of a run.
 *
 * Its range is decoded while it comes: each piece goes to the workers as soon as
 * they have nothing of the run to do, so that the first chunk is answered long
 * before the last has arrived. Where chunks continue each other it goes to the
 * end of their row, range after range, but stops (is suspended) as soon as
 * nobody wants what comes next.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/window_cache-internal.h"
#include "fuse/worker_pool-internal.h"

/* How much of a row of chunks is needed for those that are wanted can only be guessed. What is
 * asked for beyond that goes on where it turns out to be too little. */
#define GUESS_LEAST (256u << 10)

void run_let_memory_go(struct run *run)
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

void run_body_used(struct run *run)
{
    uint64_t needed = run->body_length + (run->end - run->fetched);
    if (needed >= run->body_memory) return;
    memory_release(&run->device->path->memory, run->body_memory - (size_t)needed);
    run->body_memory = (size_t)needed;
}

void run_drop_body(struct run *run)
{
    struct body_piece *piece;
    while ((piece = STAILQ_FIRST(&run->body))) {
        STAILQ_REMOVE_HEAD(&run->body, link);
        free(piece);
    }
    run->fetched -= run->body_length;
    run->body_length = 0;
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

/* Asks for window and bytes at the same time. */
static void begin_at_first(struct run *run, struct actions *actions)
{
    const struct chunk *chunk = &run->device->table->chunks[run->first];
    run->state = RUN_FETCHING;
    if (chunk->start == CHUNK_WINDOW) {
        run->windows = window_group_use(run->device, chunk->window / WINDOWS_PER_GROUP);
        if (!run->windows) {
            run_fail(run, "out of memory", actions);
            return;
        }
    }
    run_go_on(run, actions);
}

void run_begin(struct run *run, struct actions *actions)
{
    STAILQ_INIT(&run->body);
    device_busy(run->device);
    TAILQ_INSERT_TAIL(&run->device->path->runs, run, link);
    mark_fetching(run);
    begin_at_first(run, actions);
}

/* ---- the range ---- */

static void count_range(struct run *run, bool under_way)
{
    struct data_path *path = run->device->path;
    if (run->counted == under_way) return;
    run->counted = under_way;
    path->ranges += under_way ? 1 : -1u;
    if (run->ahead) path->ranges_ahead += under_way ? 1 : -1u;
    if (path->ranges == 0) link_speed_idle(&path->link);
}

/* So many bytes of what the run asked for ahead are no longer under way. */
static void ahead_came(struct run *run, size_t length)
{
    if (length > run->ahead_left) length = run->ahead_left;
    run->ahead_left -= length;
    run->device->path->ahead_bytes -= length;
}

/* Of a batch the last counts, which is likely to come last. */
static void range_asked(struct run *run)
{
    struct run_batch *batch = &run->device->path->batch;
    run->ahead = run->urgency != URGENCY_DEMAND;
    run->ahead_left = run->ahead ? run->request->length : 0;
    run->device->path->ahead_bytes += run->ahead_left;
    count_range(run, true);
    if (!batch->number) return;
    run->request->batch = batch->number;
    batch->length += run->request->length;
    if (batch->last) count_range(batch->last, false);
    batch->last = run;
}

static void range_over(struct run *run)
{
    struct run_batch *batch = &run->device->path->batch;
    run->request = NULL;
    ahead_came(run, run->ahead_left);
    count_range(run, false);
    if (batch->last == run) batch->last = NULL;
}

static void abandon_range(struct run *run)
{
    if (!run->request) return;
    range_request_abandon(run->request);
    range_over(run);
}

static void piece_arrived(void *owner, struct body_piece *piece, struct actions *actions)
{
    struct run *run = owner;
    atomic_fetch_add(&run->device->path->counters.bytes_fetched, piece->length);
    atomic_fetch_add(&run->device->bytes_fetched, piece->length);
    link_speed_arrived(&run->device->path->link, piece->length, clock_us());
    ahead_came(run, piece->length);
    run->fetched += piece->length;
    run->body_length += piece->length;
    STAILQ_INSERT_TAIL(&run->body, piece, link);
    if (run->state == RUN_FETCHING) run_go_on(run, actions);
}

static void range_arrived(void *owner, struct buffer *body, struct error *error,
                          struct actions *actions)
{
    struct run *run = owner;
    bool had_its_time = range_request_had_its_time(run->request);
    buffer_free(body); /* empty: it came in pieces */
    range_over(run);
    if (error) {
        error_prefix(&error, "chunk %u", run->next);
        run->failure = strdup(error_message(error));
        run->failed = true;
        run->had_its_time = had_its_time;
        error_free(error);
    }
    if (run->state == RUN_FETCHING || run->state == RUN_WAITING) run_go_on(run, actions);
}

static const struct range_receiver receiver = { piece_arrived, range_arrived };

/* Bytes of the blob, from the decoder's place, that probably give all that is wanted. */
static uint64_t guess_needed(const struct run *run)
{
    const struct chunk_table *table = run->device->table;
    if (run->wanted_last == run->last) return UINT64_MAX;
    uint64_t wanted =
        table->chunks[run->wanted_last + 1].stream_offset - table->chunks[run->next].stream_offset;
    uint64_t stream = table->chunks[run->last].stream_offset + chunk_length(table, run->last) -
                      table->chunks[run->first].stream_offset;
    double ratio = (double)(run->end - run->start) / (double)stream;
    return (uint64_t)((double)wanted * ratio * 1.25) + GUESS_LEAST / 4;
}

/* How much to ask for next; 0: nothing now. */
static size_t length_to_ask(const struct run *run)
{
    uint64_t left = run->end - run->fetched, needed = guess_needed(run);
    uint64_t length = run->piece > run->body_length ? run->piece - run->body_length : 0;
    if (run->request || run->failed || run->next > run->wanted_last) return 0;
    if (run->body_length > 0 && (needed <= run->body_length || length < run->piece / 2)) return 0;
    needed = needed > run->body_length ? needed - run->body_length : 0;
    if (needed < GUESS_LEAST) needed = GUESS_LEAST;
    if (length > needed) length = needed;
    return (size_t)(length < left ? length : left);
}

/* False: the run has failed, and is gone. */
static bool ask_for_more(struct run *run, struct actions *actions)
{
    struct layer_device *device = run->device;
    size_t length = length_to_ask(run);
    if (length == 0) return true;
    run->request = range_request_new(device, &device->table->blob_digest, run->fetched, length,
                                     &receiver, run, run_wanted_until(run), actions);
    if (!run->request) {
        run_fail(run, "out of memory", actions);
        return false;
    }
    range_asked(run);
    if (run->urgency == URGENCY_FILL) fill_rate_use(device->path, length);
    return true;
}

/* ---- going on ---- */

static void fail(struct run *run, bool had_its_time, const char *reason, struct actions *actions)
{
    if (!reason) reason = "out of memory";
    if (had_its_time)
        run_out_of_time(run, reason, actions);
    else
        run_fail(run, reason, actions);
}

/* There are bytes that somebody wants decoded. */
static void go_on_decoding(struct run *run, struct actions *actions)
{
    const struct window_group_entry *windows = run->windows;
    if (windows && windows->state == WINDOWS_FAILED) {
        fail(run, windows->had_its_time, windows->failure, actions);
    } else if (windows && windows->state != WINDOWS_READY) {
        run->state = RUN_WAITING;
    } else {
        run->state = RUN_DECODING;
        run->job.work = run_decode_job;
        worker_pool_add(run->device->path->workers, &run->job, run->urgency == URGENCY_DEMAND);
    }
}

void run_go_on(struct run *run, struct actions *actions)
{
    run->state = RUN_FETCHING;
    if (run->device->closing || run->next > run->last) {
        run_end(run, actions);
        return;
    }
    if (!ask_for_more(run, actions)) return;
    bool wanted = run->next <= run->wanted_last;
    if (wanted && !STAILQ_EMPTY(&run->body))
        go_on_decoding(run, actions);
    else if (run->request)
        return; /* until more comes */
    else if (!wanted)
        run_suspend(run, actions);
    else if (run->failed)
        fail(run, run->had_its_time, run->failure, actions);
    else
        run_fail(run, "the blob ends too early", actions);
}

void run_continue(struct run *run, struct actions *actions)
{
    if (run->state == RUN_WAITING) run_go_on(run, actions);
}

static void drop_all(struct run *run)
{
    abandon_range(run);
    run_drop_body(run);
    chunk_decoder_free(run->decoder);
    run->decoder = NULL;
    free(run->failure);
    run->failure = NULL;
    run->failed = false;
    if (run->windows) window_group_leave(run->windows);
    run->windows = NULL;
}

void run_start_again(struct run *run, struct actions *actions)
{
    const struct chunk_table *table = run->device->table;
    uint64_t length;
    drop_all(run);
    run->first = run->next = chunk_table_checkpoint(table, run->next);
    chunk_table_blob_range(table, run->first, run->last, &run->start, &length);
    run->fetched = run->start;
    run->end = run->start + length;
    size_t body = length < run->piece ? (size_t)length : run->piece;
    if (body > run->body_memory) {
        memory_charge(&run->device->path->memory, body - run->body_memory);
        run->body_memory = body;
    }
    begin_at_first(run, actions);
}

/* ---- who waits ---- */

struct run *run_toward(const struct layer_device *device, uint32_t chunk)
{
    struct run *run = run_in_place(device, chunk, chunk);
    return run && run->next <= chunk && !device->closing ? run : NULL;
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
    if (run->state == RUN_SUSPENDED)
        run_resume(run, actions);
    else if (run->state == RUN_FETCHING)
        run_go_on(run, actions);
}

/* ---- ending ---- */

void run_free(struct run *run)
{
    run_drop_body(run);
    chunk_decoder_free(run->decoder);
    free(run->failure);
    free(run);
}

void run_end(struct run *run, struct actions *actions)
{
    struct layer_device *device = run->device;
    uint32_t first = run->first, wanted_last = run->wanted_last;
    abandon_range(run);
    if (run->windows) window_group_leave(run->windows);
    TAILQ_REMOVE(&device->path->runs, run, link);
    run_let_memory_go(run);
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
    struct run *run, *next;
    for (run = TAILQ_FIRST(&device->path->runs); run; run = next) {
        next = TAILQ_NEXT(run, link);
        /* A worker sees by itself that the device closes. */
        if (run->device == device && run->state != RUN_DECODING) run_end(run, actions);
    }
}
