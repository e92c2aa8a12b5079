/*
 * The life of a chunk.
 *
 *   absent ──► wanted ──► fetching ──► ready ──► present
 *     │  ▲                   │           │          │
 *     │  └──── failed ───────┘           │          │
 *     │  └──── could not be stored ──────┘          │
 *     │  └──── the file lost it, or it was evicted ─┘
 *     └─► checking ──► present, or wanted when the bytes on disk are damaged
 *
 * Only a chunk between absent and present has a record, with the pieces of
 * reads that wait for it; for the others a byte says it all.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/recent_failure-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/worker_pool-internal.h"

/* A full disk fails every store: one line now and then tells it. */
#define STORE_ERROR_INTERVAL_MS 10000u

/* A failure that took this long is not waited for twice by one program. */
#define LONG_WAIT_MS 2000u

/* ---- records ---- */

static bool is_in_flight(enum chunk_state state)
{
    return state == CHUNK_CHECKING || state == CHUNK_WANTED || state == CHUNK_FETCHING;
}

static void set_state(struct layer_device *device, uint32_t chunk, enum chunk_state state)
{
    _Atomic uint64_t *in_flight = &device->path->counters.chunks_in_flight;
    if (is_in_flight(chunk_state(device, chunk))) atomic_fetch_sub(in_flight, 1);
    if (is_in_flight(state)) atomic_fetch_add(in_flight, 1);
    atomic_store_explicit(&device->states[chunk], (uint8_t)state, memory_order_release);
}

struct active_chunk *active_chunk_find(const struct layer_device *device, uint32_t chunk)
{
    struct active_chunk *record = device->active[chunk % CHUNK_BUCKETS];
    while (record && record->chunk != chunk)
        record = record->hash_next;
    return record;
}

static struct active_chunk *record_new(struct layer_device *device, uint32_t chunk)
{
    struct active_chunk *record = calloc(1, sizeof *record);
    if (!record) return NULL;
    record->device = device;
    record->chunk = chunk;
    TAILQ_INIT(&record->waiters);
    STAILQ_INIT(&record->owed);
    record->hash_next = device->active[chunk % CHUNK_BUCKETS];
    device->active[chunk % CHUNK_BUCKETS] = record;
    return record;
}

/* The chunk's unrest is over; what supplies hear of it. */
static void record_settle(struct active_chunk *record, enum chunk_state state, int result,
                          struct actions *actions)
{
    struct layer_device *device = record->device;
    struct active_chunk **link = &device->active[record->chunk % CHUNK_BUCKETS];
    while (*link != record)
        link = &(*link)->hash_next;
    *link = record->hash_next;
    set_state(device, record->chunk, state);
    supply_give_back(&record->owed, result, actions);
    if (record->bytes) chunk_bytes_unreference(device->path, record->bytes, actions);
    free(record);
}

/* It is in the cache file, and this process has verified that generation of it. */
static void settle_present(struct active_chunk *record, uint32_t generation,
                           struct actions *actions)
{
    atomic_store_explicit(&record->device->generations[record->chunk], generation,
                          memory_order_relaxed);
    record_settle(record, CHUNK_PRESENT, 0, actions);
}

/* ---- bytes ---- */

void chunk_bytes_unreference(struct data_path *path, struct chunk_bytes *bytes,
                             struct actions *actions)
{
    if (--bytes->references > 0) return;
    memory_release(&path->memory, bytes->length);
    STAILQ_INSERT_TAIL(&actions->dead_bytes, bytes, action);
}

static struct chunk_bytes *chunk_bytes_new(uint8_t *data, size_t length)
{
    struct chunk_bytes *bytes = calloc(1, sizeof *bytes);
    if (!bytes) return NULL;
    *bytes = (struct chunk_bytes){ .data = data, .length = length, .references = 1 };
    return bytes;
}

static void stop_waiting(struct read_piece *piece)
{
    TAILQ_REMOVE(&piece->awaits->waiters, piece, waiter);
    piece->awaits = NULL;
}

/* Gives the record's bytes to all who wait. */
static void deliver(struct active_chunk *record, struct actions *actions)
{
    struct read_piece *piece;
    while ((piece = TAILQ_FIRST(&record->waiters))) {
        stop_waiting(piece);
        piece->bytes = record->bytes;
        piece->bytes->references++;
        read_piece_is_here(piece, actions);
    }
}

/* ---- waiting ---- */

bool chunk_is_needed(const struct active_chunk *record)
{
    return !TAILQ_EMPTY(&record->waiters) || !STAILQ_EMPTY(&record->owed);
}

static enum urgency urgency_of(const struct active_chunk *record)
{
    const struct supply_return *owed;
    enum urgency urgency = URGENCY_FILL;
    if (!TAILQ_EMPTY(&record->waiters)) return URGENCY_DEMAND;
    STAILQ_FOREACH(owed, &record->owed, link)
    if (owed->urgency < urgency) urgency = owed->urgency;
    return urgency;
}

/* Into the queue of those that are as urgent. */
static void enqueue(struct active_chunk *record, bool first)
{
    struct chunk_queue *queues = record->device->path->wanted;
    record->urgency = urgency_of(record);
    if (first)
        TAILQ_INSERT_HEAD(&queues[record->urgency], record, queue);
    else
        TAILQ_INSERT_TAIL(&queues[record->urgency], record, queue);
}

static void dequeue(struct active_chunk *record)
{
    TAILQ_REMOVE(&record->device->path->wanted[record->urgency], record, queue);
}

/* Who needs a WANTED or FETCHING chunk has changed. */
static void urgency_changed(struct active_chunk *record)
{
    if (chunk_state(record->device, record->chunk) == CHUNK_FETCHING) {
        run_hurry(record->device, record->chunk, urgency_of(record));
    } else if (record->urgency != urgency_of(record)) {
        dequeue(record);
        enqueue(record, false);
    }
}

static void start_waiting(struct active_chunk *record, struct read_piece *piece)
{
    piece->awaits = record;
    TAILQ_INSERT_TAIL(&record->waiters, piece, waiter);
}

static void note_demand(struct data_path *path)
{
    path->demanded = true;
    atomic_store_explicit(&path->demanded_at, clock_ms(), memory_order_relaxed);
}

/* What is stored is checked, what is not is fetched. */
static void start_moving(struct active_chunk *record, struct actions *actions)
{
    struct data_path *path = record->device->path;
    if (!layer_cache_generation(record->device->cache, record->chunk)) {
        chunk_want(record, false, actions);
        return;
    }
    set_state(record->device, record->chunk, CHUNK_CHECKING);
    TAILQ_INSERT_TAIL(&path->checks, record, queue);
}

int chunk_await(struct layer_device *device, struct read_piece *piece, struct actions *actions)
{
    struct active_chunk *record = active_chunk_find(device, piece->chunk);
    switch (chunk_state(device, piece->chunk)) {
    case CHUNK_PRESENT:
        piece->generation = device->generations[piece->chunk];
        return 0;
    case CHUNK_READY:
        record->demanded = true;
        piece->bytes = record->bytes;
        piece->bytes->references++;
        return 0;
    case CHUNK_ABSENT:
        record = record_new(device, piece->chunk);
        if (!record) return -1;
        start_waiting(record, piece);
        start_moving(record, actions);
        return 0;
    case CHUNK_WANTED:
    case CHUNK_FETCHING:
        piece->read->missed = true;
        note_demand(device->path);
        start_waiting(record, piece);
        urgency_changed(record);
        return 0;
    case CHUNK_CHECKING:
        start_waiting(record, piece);
        return 0;
    }
    return 0;
}

void chunk_forsake(struct read_piece *piece, struct actions *actions)
{
    struct active_chunk *record = piece->awaits;
    stop_waiting(piece);
    if (!TAILQ_EMPTY(&record->waiters) ||
        chunk_state(record->device, record->chunk) != CHUNK_WANTED)
        return;
    if (chunk_is_needed(record)) {
        urgency_changed(record);
    } else {
        dequeue(record);
        chunk_give_up(record, -ECANCELED, actions);
    }
}

void chunk_owe(struct layer_device *device, struct supply_return *owed, struct actions *actions)
{
    uint32_t chunk = owed->chunk;
    struct supply_returns one = STAILQ_HEAD_INITIALIZER(one);
    STAILQ_INSERT_TAIL(&one, owed, link);
    if (chunk >= device->table->chunk_count || device->closing) {
        supply_give_back(&one, device->closing ? -ECANCELED : -EINVAL, actions);
        return;
    }
    chunk_refresh(device, chunk);
    struct active_chunk *record = active_chunk_find(device, chunk);
    if (record && record->store_result < 0) {
        supply_give_back(&one, record->store_result, actions);
    } else if (record) {
        STAILQ_CONCAT(&record->owed, &one);
        enum chunk_state state = chunk_state(device, chunk);
        if (state == CHUNK_WANTED || state == CHUNK_FETCHING) urgency_changed(record);
    } else if (layer_cache_generation(device->cache, chunk)) {
        supply_give_back(&one, 0, actions);
    } else if (failure_is_recent(device, chunk)) {
        supply_give_back(&one, -EIO, actions);
    } else if (!(record = record_new(device, chunk))) {
        supply_give_back(&one, -ENOMEM, actions);
    } else {
        STAILQ_CONCAT(&record->owed, &one);
        chunk_want(record, false, actions);
    }
}

void chunk_drop_unneeded(struct data_path *path, struct actions *actions)
{
    struct active_chunk *record, *next;
    for (unsigned i = 0; i < URGENCIES; i++) {
        for (record = TAILQ_FIRST(&path->wanted[i]); record; record = next) {
            next = TAILQ_NEXT(record, queue);
            supply_drop_gone(&record->owed);
            if (chunk_is_needed(record)) continue;
            dequeue(record);
            chunk_give_up(record, -ECANCELED, actions);
        }
    }
}

void chunk_drop_wanted(const struct layer_device *device, struct actions *actions)
{
    struct active_chunk *record, *next;
    for (unsigned i = 0; i < URGENCIES; i++) {
        for (record = TAILQ_FIRST(&device->path->wanted[i]); record; record = next) {
            next = TAILQ_NEXT(record, queue);
            if (record->device != device) continue;
            dequeue(record);
            chunk_give_up(record, -ECANCELED, actions);
        }
    }
}

void chunk_want(struct active_chunk *record, bool first, struct actions *actions)
{
    struct layer_device *device = record->device;
    struct read_piece *piece;
    TAILQ_FOREACH(piece, &record->waiters, waiter)
    piece->read->missed = true;
    if (!TAILQ_EMPTY(&record->waiters)) note_demand(device->path);
    struct run *run = run_toward(device, record->chunk);
    if (run) {
        set_state(device, record->chunk, CHUNK_FETCHING);
        run_extend(run, record->chunk, urgency_of(record), actions);
        return;
    }
    set_state(device, record->chunk, CHUNK_WANTED);
    enqueue(record, first);
}

void chunk_fetching(struct active_chunk *record)
{
    dequeue(record);
    set_state(record->device, record->chunk, CHUNK_FETCHING);
}

void chunk_give_up(struct active_chunk *record, int result, struct actions *actions)
{
    record_settle(record, CHUNK_ABSENT, result, actions);
}

static void note_long_wait(const struct active_chunk *record)
{
    const struct read_piece *piece = TAILQ_FIRST(&record->waiters);
    if (piece && read_has_waited(piece->read) >= LONG_WAIT_MS)
        failure_note(record->device, record->chunk);
}

void chunk_fail(struct active_chunk *record, struct actions *actions)
{
    struct read_piece *piece;
    note_long_wait(record);
    while ((piece = TAILQ_FIRST(&record->waiters)))
        read_fail(piece->read, actions);
    chunk_give_up(record, -EIO, actions);
}

bool chunk_fail_old_reads(struct active_chunk *record, struct actions *actions)
{
    struct read_piece *piece, *next;
    bool any = false;
    for (piece = TAILQ_FIRST(&record->waiters); piece; piece = next) {
        next = TAILQ_NEXT(piece, waiter);
        if (!read_is_nearly_over(piece->read)) continue;
        if (!any) note_long_wait(record);
        any = true;
        read_fail(piece->read, actions);
    }
    return any;
}

uint64_t chunk_wanted_until(const struct active_chunk *record)
{
    const struct read_piece *piece;
    uint64_t until = 0;
    TAILQ_FOREACH(piece, &record->waiters, waiter)
    if (piece->read->deadline > until) until = piece->read->deadline;
    return until;
}

void chunk_refresh(struct layer_device *device, uint32_t chunk)
{
    if (chunk_state(device, chunk) == CHUNK_PRESENT && !chunk_present(device, chunk))
        set_state(device, chunk, CHUNK_ABSENT);
}

void chunk_damaged(struct layer_device *device, uint32_t chunk, uint32_t generation)
{
    if (!layer_cache_holds(device->cache, chunk, generation)) return;
    layer_cache_forget(device->cache, chunk, generation);
    atomic_fetch_add(&device->path->counters.chunks_damaged, 1);
    chunk_refresh(device, chunk);
}

/* ---- checking what is on disk ---- */

void chunk_start_checks(struct data_path *path, struct actions *actions)
{
    struct active_chunk *record;
    while ((record = TAILQ_FIRST(&path->checks))) {
        size_t length = (size_t)chunk_length(record->device->table, record->chunk);
        if (!memory_hold(&path->memory, MEMORY_CHECK, length)) return;
        TAILQ_REMOVE(&path->checks, record, queue);
        device_busy(record->device);
        STAILQ_INSERT_TAIL(&actions->checks, record, action);
    }
}

static bool is_intact(const struct active_chunk *record)
{
    const struct chunk_bytes *bytes = record->bytes;
    struct digest digest;
    if (!bytes || record->read_result != (ssize_t)bytes->length) return false;
    digest_of(bytes->data, bytes->length, &digest);
    return digest_equal(&digest, &record->device->table->chunks[record->chunk].digest);
}

static void check_over(struct active_chunk *record, bool intact, struct actions *actions)
{
    struct layer_device *device = record->device;
    struct data_path *path = device->path;
    memory_let_go(&path->memory, MEMORY_CHECK,
                  record->bytes ? 0 : (size_t)chunk_length(device->table, record->chunk));
    if (intact) {
        deliver(record, actions);
        settle_present(record, record->generation, actions);
    } else {
        chunk_damaged(device, record->chunk, record->generation);
        if (record->bytes) chunk_bytes_unreference(path, record->bytes, actions);
        record->bytes = NULL;
        if (device->closing || !chunk_is_needed(record))
            chunk_give_up(record, -ECANCELED, actions);
        else
            chunk_want(record, false, actions);
    }
    device_idle(device);
}

static void check_job(struct job *job)
{
    struct active_chunk *record =
        (struct active_chunk *)(void *)((char *)job - offsetof(struct active_chunk, job));
    struct layer_device *device = record->device;
    struct data_path *path = device->path;
    const struct chunk *chunk = &device->table->chunks[record->chunk];
    size_t length = (size_t)chunk_length(device->table, record->chunk);
    bool intact = is_intact(record);
    if (intact) {
        layer_cache_touch(device->cache, record->chunk);
        layer_cache_drop_behind(device->cache, chunk->stream_offset, length);
    }
    struct actions actions;
    data_path_enter(path, &actions);
    check_over(record, intact, &actions);
    data_path_leave(path, &actions);
}

static void check_read(void *context, ssize_t result)
{
    struct active_chunk *record = context;
    record->read_result = result;
    record->job.work = check_job;
    worker_pool_add(record->device->path->workers, &record->job, true);
}

void chunk_check(struct active_chunk *record)
{
    struct layer_device *device = record->device;
    size_t length = (size_t)chunk_length(device->table, record->chunk);
    uint8_t *data = malloc(length);
    struct chunk_bytes *bytes = data ? chunk_bytes_new(data, length) : NULL;
    if (!bytes) {
        free(data);
        check_read(record, -ENOMEM);
        return;
    }
    record->bytes = bytes;
    record->generation = layer_cache_generation(device->cache, record->chunk);
    ssize_t result =
        layer_cache_read(device->cache, device->table->chunks[record->chunk].stream_offset, data,
                         length, check_read, record);
    if (result != -EINPROGRESS) check_read(record, result);
}

/* ---- arriving and being stored ---- */

/* The record of a chunk that takes the bytes of a run; NULL: it has no use for them. */
static struct active_chunk *record_for_arrival(struct layer_device *device, uint32_t chunk)
{
    struct active_chunk *record = active_chunk_find(device, chunk);
    switch (chunk_state(device, chunk)) {
    case CHUNK_ABSENT: /* passed over on the way to another */
        return record_new(device, chunk);
    case CHUNK_WANTED:
        dequeue(record);
        return record;
    case CHUNK_FETCHING:
        return record;
    case CHUNK_CHECKING:
    case CHUNK_READY:
    case CHUNK_PRESENT:
        break;
    }
    return NULL;
}

void chunk_arrived(struct layer_device *device, uint32_t chunk, uint8_t *data, size_t length,
                   struct actions *actions)
{
    struct data_path *path = device->path;
    struct chunk_bytes *bytes = chunk_bytes_new(data, length);
    if (!bytes) {
        free(data);
        memory_release(&path->memory, length);
        return; /* the end of the run takes care of who waits */
    }
    struct active_chunk *record = record_for_arrival(device, chunk);
    if (!record) {
        chunk_bytes_unreference(path, bytes, actions);
        return;
    }
    atomic_fetch_add(&path->counters.chunks_fetched, 1);
    atomic_fetch_add(&device->chunks_fetched, 1);
    atomic_fetch_add(&path->counters.bytes_decoded, length);
    record->bytes = bytes;
    record->demanded = !TAILQ_EMPTY(&record->waiters);
    set_state(device, chunk, CHUNK_READY);
    deliver(record, actions);
    device_busy(device);
    path->memory.storing += length;
    STAILQ_INSERT_TAIL(&actions->stores, record, action);
}

static void drop_kept(struct active_chunk *record, struct actions *actions)
{
    struct data_path *path = record->device->path;
    TAILQ_REMOVE(&path->kept, record, queue);
    path->kept_bytes -= record->bytes->length;
    chunk_give_up(record, record->store_result, actions);
}

void chunk_drop_kept(struct data_path *path, const struct layer_device *device,
                     struct actions *actions)
{
    struct active_chunk *record, *next;
    for (record = TAILQ_FIRST(&path->kept); record; record = next) {
        next = TAILQ_NEXT(record, queue);
        if (record->device == device) drop_kept(record, actions);
    }
}

/* A chunk that cannot be stored stays in memory for a while: its neighbours' readers ask for it in
 * many small reads. */
static void keep(struct active_chunk *record, struct actions *actions)
{
    struct data_path *path = record->device->path;
    TAILQ_INSERT_TAIL(&path->kept, record, queue);
    path->kept_bytes += record->bytes->length;
    while (path->kept_bytes > path->memory.limit / 4)
        drop_kept(TAILQ_FIRST(&path->kept), actions);
}

static void report_store_error(struct data_path *path, const struct layer_device *device,
                               int number)
{
    uint64_t now = clock_ms();
    uint64_t before = atomic_load(&path->store_error_reported);
    atomic_fetch_add(&path->counters.store_errors, 1);
    if (before && now - before < STORE_ERROR_INTERVAL_MS) return;
    if (!atomic_compare_exchange_strong(&path->store_error_reported, &before, now)) return;
    log_warning("layer %s...: cannot store chunks in cache directory '%s': %s; reads are served "
                "from the registry until that is possible",
                device->name, cache_directory(path->cache),
                number == EDQUOT   ? "no room, and nothing that could be evicted"
                : number == ESTALE ? "the layer's files were removed or cut off"
                                   : strerror(number));
}

static void store_done(void *context, ssize_t result, uint32_t generation)
{
    struct active_chunk *record = context;
    struct layer_device *device = record->device;
    struct data_path *path = device->path;
    size_t length = record->bytes->length;
    bool stored = result == (ssize_t)length;
    if (stored)
        layer_cache_drop_behind(device->cache, device->table->chunks[record->chunk].stream_offset,
                                length);
    else if (result != -EBUSY) /* another server is storing it this moment */
        report_store_error(path, device, result < 0 ? (int)-result : EIO);
    struct actions actions;
    data_path_enter(path, &actions);
    path->memory.storing -= length;
    if (stored) {
        settle_present(record, generation, &actions);
    } else {
        record->store_result = result < 0 ? (int)result : -EIO;
        supply_give_back(&record->owed, record->store_result, &actions);
        if (device->closing || !record->demanded)
            chunk_give_up(record, -ECANCELED, &actions);
        else
            keep(record, &actions);
    }
    device_idle(device);
    pthread_cond_broadcast(&path->changed);
    data_path_leave(path, &actions);
}

void chunk_store(struct active_chunk *record)
{
    struct layer_device *device = record->device;
    layer_cache_store(device->cache, record->chunk,
                      device->table->chunks[record->chunk].stream_offset, record->bytes->data,
                      record->bytes->length, store_done, record);
}
