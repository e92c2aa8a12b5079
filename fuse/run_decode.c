/* A run's bytes on their way through the decoder: the workers' part. */
#include <stddef.h>
#include <stdlib.h>

#include "fuse/layer_device-internal.h"

/* Between two slices the worker looks whether somebody still wants what comes. */
#define SLICE_LENGTH (128u << 10)

static struct run *run_of(struct job *job)
{
    return (struct run *)(void *)((char *)job - offsetof(struct run, job));
}

/* ---- chunks come out ---- */

/* Memory for a chunk beyond what the run holds: waits for the disk to take what was decoded before,
 * which it does without help of this thread. */
static void charge_chunk(struct run *run, size_t length)
{
    struct data_path *path = run->device->path;
    if (run->decoded_memory >= length) {
        run->decoded_memory -= length; /* goes over to the chunk's bytes */
        return;
    }
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
    charge_chunk(run, length);
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

static bool somebody_wants_more(struct run *run)
{
    struct data_path *path = run->device->path;
    pthread_mutex_lock(&path->lock);
    bool wanted = run->next <= run->wanted_last && !run->device->closing;
    pthread_mutex_unlock(&path->lock);
    return wanted;
}

static int decode_body(struct run *run, struct error **error)
{
    if (!run->decoder && open_decoder(run, error) < 0) return -1;
    while (run->body_used < run->body.length && somebody_wants_more(run)) {
        size_t length = run->body.length - run->body_used;
        if (length > SLICE_LENGTH) length = SLICE_LENGTH;
        if (chunk_decoder_feed(run->decoder, run->body.data + run->body_used, length, error) < 0)
            return -1;
        run->body_used += length;
    }
    bool at_end = run->fetched == run->end && run->body_used == run->body.length;
    if (at_end && run->next <= run->last) return chunk_decoder_finish(run->decoder, error);
    return 0;
}

/* ---- what now; under the lock ---- */

static void start_again(struct run *run, struct actions *actions)
{
    struct data_path *path = run->device->path;
    chunk_decoder_free(run->decoder);
    run->decoder = NULL;
    buffer_free(&run->body);
    run->body_used = 0;
    run->fetched = run->start;
    run->next = run->first;
    /* The chunks that were decoded took their share with them. */
    size_t decoded = CHUNK_LENGTH_MAX;
    if (run->decoded_memory < decoded) {
        memory_charge(&path->memory, decoded - run->decoded_memory);
        run->decoded_memory = decoded;
    }
    run_fetch_piece(run, actions);
}

/* The chunk at which decoding failed cannot be had, nor those that continue it; the others of the
 * run can perhaps. */
static void give_up_chunk(struct run *run, struct error *error, struct actions *actions)
{
    const struct layer_device *device = run->device;
    const struct chunk_table *table = device->table;
    uint32_t last = run->next;
    if (error_kind_of(error) == ERROR_INVALID) {
        error_prefix(&error, "damaged bytes from %s/%s, three times", device->registry,
                     device->repository);
        error_hint(&error, "check the registry and its mirrors, or index the image again");
    }
    while (last < run->wanted_last && table->chunks[last + 1].start == CHUNK_CONTINUES)
        last++;
    run_fail_until(run, last, error_message(error), actions);
}

static void decoding_failed(struct run *run, struct error *error, struct actions *actions)
{
    bool damaged = error_kind_of(error) == ERROR_INVALID;
    if (damaged) {
        atomic_fetch_add(&run->device->path->counters.chunks_damaged, 1);
        registry_report_damage(run->device->path->client, &run->device->table->blob_digest,
                               run->start, run->fetched - run->start);
    }
    if (run->device->closing)
        run_end(run, actions);
    else if (damaged && ++run->attempts < DAMAGED_ATTEMPTS)
        start_again(run, actions);
    else
        give_up_chunk(run, error, actions);
}

static void go_on(struct run *run, struct actions *actions)
{
    if (run->next > run->last || run->device->closing) {
        run_end(run, actions);
    } else if (run->next > run->wanted_last) {
        run_suspend(run, actions);
    } else if (run->body_used < run->body.length) {
        /* Became wanted just now. */
        run->state = RUN_WAITING;
        run_continue(run, actions);
    } else {
        buffer_free(&run->body);
        run->body_used = 0;
        run_fetch_piece(run, actions);
    }
}

void run_decode_job(struct job *job)
{
    struct run *run = run_of(job);
    struct data_path *path = run->device->path;
    struct error *error = NULL;
    struct actions actions;
    int result = decode_body(run, &error);
    data_path_enter(path, &actions);
    if (result < 0)
        decoding_failed(run, error, &actions);
    else
        go_on(run, &actions);
    data_path_leave(path, &actions);
    error_free(error);
}
