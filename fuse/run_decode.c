/* A run's bytes on their way through the decoder: the workers' part. */
#include <stddef.h>
#include <stdlib.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/window_cache-internal.h"
#include "fuse/worker_pool-internal.h"

static struct run *run_of(struct job *job)
{
    return (struct run *)(void *)((char *)job - offsetof(struct run, job));
}

/* ---- chunks come out ---- */

/* Waits for the disk to take what was decoded before, which it does without help of this thread. */
static void charge_chunk(struct data_path *path, size_t length)
{
    while (path->memory.storing > 0 && path->memory.used + length > path->memory.limit)
        pthread_cond_wait(&path->changed, &path->lock);
    memory_charge(&path->memory, length);
}

/* The decoder's callback; without the lock. */
static int chunk_decoded(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    struct run *run = context;
    struct data_path *path = run->device->path;
    struct actions actions;
    if (chunk != run->next || length != chunk_length(run->device->table, chunk)) {
        free(data);
        return -1;
    }
    data_path_enter(path, &actions);
    charge_chunk(path, length);
    run->next = chunk + 1;
    chunk_arrived(run->device, chunk, data, length, &actions);
    data_path_leave(path, &actions);
    return 0;
}

/* ---- bytes go in ---- */

static int open_decoder(struct run *run, struct error **error)
{
    const struct chunk_table *table = run->device->table;
    const struct chunk *chunk = &table->chunks[run->first];
    uint8_t window[GZIP_WINDOW_LENGTH];
    if (run->windows && window_group_extract(table, chunk->window, run->windows->data.data,
                                             run->windows->data.length, window, error) < 0)
        return -1;
    run->decoder = chunk_decoder_new(table, run->first, run->last, run->windows ? window : NULL,
                                     chunk_decoded, run, error);
    return run->decoder ? 0 : -1;
}

/* The next bytes; NULL: there are none yet, or nobody wants what they give. */
static struct body_piece *take_piece(struct run *run, bool *ret_urgent)
{
    struct data_path *path = run->device->path;
    struct body_piece *piece = NULL;
    pthread_mutex_lock(&path->lock);
    if (run->next <= run->wanted_last && !run->device->closing) piece = STAILQ_FIRST(&run->body);
    if (piece) {
        STAILQ_REMOVE_HEAD(&run->body, link);
        run->body_length -= piece->length;
    }
    *ret_urgent = run->urgency == URGENCY_DEMAND;
    pthread_mutex_unlock(&path->lock);
    return piece;
}

static int decode_piece(struct run *run, const struct body_piece *piece, struct error **error)
{
    if (!run->decoder && open_decoder(run, error) < 0) return -1;
    return chunk_decoder_feed(run->decoder, piece->data, piece->length, error);
}

/* Goes on until there is nothing to do, or others have waited long enough. */
static int decode_body(struct run *run, struct error **error)
{
    struct body_piece *piece;
    bool urgent;
    while ((piece = take_piece(run, &urgent))) {
        int result = decode_piece(run, piece, error);
        free(piece);
        if (result < 0) return -1;
        if (worker_pool_others_wait(run->device->path->workers, urgent)) break;
    }
    return 0;
}

/* ---- what now; under the lock ---- */

/* The chunk at which decoding failed cannot be had, nor those that continue it; the others of the
 * run can perhaps. */
static void give_up_chunk(struct run *run, struct error *error, struct actions *actions)
{
    const struct layer_device *device = run->device;
    const struct chunk_table *table = device->table;
    uint32_t last = run->next;
    if (error_kind_of(error) == ERROR_INVALID) {
        error_prefix(&error, "damaged bytes from %s/%s, three times",
                     device_place(device)->registry, device_place(device)->repository);
        error_hint(&error, "check the registry and its mirrors, or index the image again");
    }
    while (last < run->wanted_last && table->chunks[last + 1].start == CHUNK_CONTINUES)
        last++;
    run_fail_until(run, last, error_message(error), actions);
}

static bool may_try_again(struct run *run)
{
    if (run->damaged != run->next) run->attempts = 0;
    run->damaged = run->next;
    return ++run->attempts < DAMAGED_ATTEMPTS;
}

/* Whoever gave the bytes of the chunk at which decoding failed: others of the range may have come
 * from somebody else. */
static void report_damage(const struct run *run)
{
    const struct layer_device *device = run->device;
    uint64_t offset = run->start, length = run->fetched - run->start;
    if (device->table->chunks[run->next].start != CHUNK_CONTINUES)
        chunk_table_blob_range(device->table, run->next, run->next, &offset, &length);
    registry_report_damage(device->path->client, &device->table->blob_digest, offset, length);
}

static void decoding_failed(struct run *run, struct error *error, struct actions *actions)
{
    bool damaged = error_kind_of(error) == ERROR_INVALID;
    if (damaged) {
        atomic_fetch_add(&run->device->path->counters.chunks_damaged, 1);
        report_damage(run);
    }
    if (run->device->closing)
        run_end(run, actions);
    else if (damaged && may_try_again(run))
        run_start_again(run, actions);
    else
        give_up_chunk(run, error, actions);
}

static bool ends_too_early(const struct run *run)
{
    return run->fetched == run->end && STAILQ_EMPTY(&run->body) && run->next <= run->last;
}

void run_decode_job(struct job *job)
{
    struct run *run = run_of(job);
    struct data_path *path = run->device->path;
    struct error *error = NULL;
    struct actions actions;
    int result = decode_body(run, &error);
    data_path_enter(path, &actions);
    run_body_used(run);
    if (result == 0 && ends_too_early(run)) result = chunk_decoder_finish(run->decoder, &error);
    if (result < 0)
        decoding_failed(run, error, &actions);
    else
        run_go_on(run, &actions);
    data_path_leave(path, &actions);
    error_free(error);
}
