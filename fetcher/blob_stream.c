/*
 * A blob as a stream. Between the transfer thread and the reader is a ring of
 * bytes; when it is full the transfer is paused, and so is the sender by TCP.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fetcher/call-internal.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/ranged-internal.h"

#define RING_BYTES     (1u << 20)
#define PROGRESS_BYTES (64u << 10) /* so much more than before is not the same failure again */

struct blob_stream {
    struct request request;
    struct digest digest;
    /* On the transfer thread only. */
    struct ranged ranged;
    uint64_t whole;       /* the blob's length */
    uint64_t progress_at; /* the offset that was progress last */

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t changed;
    unsigned references; /* the reader, the request, each task that is posted */
    uint8_t *ring;
    size_t first, count; /* the bytes in the ring */
    uint64_t left;       /* bytes that the reader has not had */
    struct error *error; /* of the request */
    bool finished;       /* the request is over */
    bool paused, continue_posted, closed;
    struct transfer_task continue_task, close_task;
};

/* Called with the lock held, releases it. */
static void unlock_and_drop(struct blob_stream *stream)
{
    bool last = --stream->references == 0;
    pthread_mutex_unlock(&stream->lock);
    if (!last) return;
    request_release(&stream->request);
    error_free(stream->error);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream->ring);
    free(stream);
}

/* Called with the lock held, and only while the request is not over: the client
 * cannot go before that. */
static void post(struct blob_stream *stream, struct transfer_task *task)
{
    stream->references++;
    transfer_post(stream->request.client->thread, task);
}

static int begin(struct request *request, struct error **error)
{
    struct blob_stream *stream = container_of(request, struct blob_stream, request);
    uint64_t whole = request->range_length ? 0 : stream->whole;
    return ranged_begin(&stream->ranged, request, whole, error);
}

static void put(struct blob_stream *stream, const uint8_t *data, size_t length)
{
    size_t at = (stream->first + stream->count) % RING_BYTES;
    size_t behind = RING_BYTES - at < length ? RING_BYTES - at : length;
    if (length == 0) return;
    memcpy(stream->ring + at, data, behind);
    memcpy(stream->ring, data + behind, length - behind);
    stream->count += length;
}

static size_t take(struct blob_stream *stream, uint8_t *data, size_t capacity)
{
    size_t length = stream->count < capacity ? stream->count : capacity;
    size_t behind = RING_BYTES - stream->first < length ? RING_BYTES - stream->first : length;
    memcpy(data, stream->ring + stream->first, behind);
    memcpy(data + behind, stream->ring, length - behind);
    stream->first = (stream->first + length) % RING_BYTES;
    stream->count -= length;
    stream->left -= length;
    return length;
}

/* True when the bytes found room. */
static bool offer(struct blob_stream *stream, const uint8_t *data, size_t length)
{
    pthread_mutex_lock(&stream->lock);
    bool room = length <= RING_BYTES - stream->count;
    stream->paused = !room;
    if (room) put(stream, data, length);
    if (room) pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return room;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct blob_stream *stream = container_of(request, struct blob_stream, request);
    size_t wanted = length;
    ranged_trim(&stream->ranged, &data, &wanted);
    if (wanted > RING_BYTES) {
        error_set(error, ERROR_UNSUPPORTED, "more bytes at once than the buffer holds");
        return TAKEN_TOO_MUCH;
    }
    if (!offer(stream, data, wanted)) return TAKEN_NOTHING;
    if (wanted > 0)
        deliveries_note(&request->client->deliveries, request->host, &stream->digest,
                        stream->ranged.offset, wanted);
    bool more = ranged_advance(&stream->ranged, request, length);
    if (stream->ranged.offset - stream->progress_at >= PROGRESS_BYTES) {
        stream->progress_at = stream->ranged.offset;
        request_made_progress(request);
    }
    return more ? TAKEN : TAKEN_ENOUGH;
}

static int end(struct request *request, struct error **error)
{
    struct blob_stream *stream = container_of(request, struct blob_stream, request);
    return ranged_end(&stream->ranged, error);
}

static void done(struct request *request, struct error *error)
{
    struct blob_stream *stream = container_of(request, struct blob_stream, request);
    pthread_mutex_lock(&stream->lock);
    stream->error = error;
    stream->finished = true;
    pthread_cond_signal(&stream->changed);
    unlock_and_drop(stream);
}

static const struct request_operations operations = {
    .begin = begin, .bytes = take_bytes, .end = end, .done = done
};

/* The reader has made room. */
static void on_continue(struct transfer_task *task)
{
    struct blob_stream *stream = container_of(task, struct blob_stream, continue_task);
    pthread_mutex_lock(&stream->lock);
    stream->continue_posted = false;
    bool finished = stream->finished;
    pthread_mutex_unlock(&stream->lock);
    if (!finished) request_continue(&stream->request);
    pthread_mutex_lock(&stream->lock);
    unlock_and_drop(stream);
}

static void on_close(struct transfer_task *task)
{
    struct blob_stream *stream = container_of(task, struct blob_stream, close_task);
    pthread_mutex_lock(&stream->lock);
    bool finished = stream->finished;
    pthread_mutex_unlock(&stream->lock);
    if (!finished) request_cancel(&stream->request);
    pthread_mutex_lock(&stream->lock);
    unlock_and_drop(stream);
}

static int prepare(struct blob_stream *stream, const struct repository *repository,
                   const struct digest *digest, struct error **error)
{
    struct request *request = &stream->request;
    char text[DIGEST_TEXT_SIZE];
    if (repository_check(repository, error) < 0) return -1;
    digest_format(digest, text);
    request->operations = &operations;
    request->method = "GET";
    request->access = ACCESS_PULL;
    request->keep_redirect = true;
    request->exchange.http1 = true;
    request->registry = strdup(repository->registry);
    request->repository = strdup(repository->name);
    request->path = format_text("%s/blobs/%s", repository->name, text);
    request->needed = HOST_PULL;
    request->what = format_text("read blob '%s@%s'", repository->name, text);
    stream->ring = malloc(RING_BYTES);
    if (!request->registry || !request->repository || !request->path || !request->what ||
        !stream->ring)
        return error_set_memory(error);
    return 0;
}

int registry_open_blob(struct registry_client *client, const struct repository *repository,
                       const struct digest *digest, uint64_t length, struct blob_stream **ret,
                       struct error **error)
{
    struct blob_stream *stream = calloc(1, sizeof *stream);
    if (!stream) return error_set_memory(error);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->references = 1;
    stream->request.client = client;
    stream->digest = *digest;
    stream->whole = stream->left = stream->ranged.length = length;
    stream->ranged.skip_limit = length; /* a stream comes from the start anyway */
    stream->continue_task.run = on_continue;
    stream->close_task.run = on_close;
    stream->finished = true;
    if (prepare(stream, repository, digest, error) < 0) {
        blob_stream_close(stream);
        return -1;
    }
    if (length > 0) {
        stream->finished = false;
        stream->references++;
        request_submit(&stream->request);
    }
    *ret = stream;
    return 0;
}

ssize_t blob_stream_read(struct blob_stream *stream, void *data, size_t capacity,
                         struct error **error)
{
    ssize_t result = 0;
    pthread_mutex_lock(&stream->lock);
    while (stream->count == 0 && !stream->finished && stream->left > 0 && capacity > 0)
        pthread_cond_wait(&stream->changed, &stream->lock);
    if (stream->count > 0 && capacity > 0) {
        result = (ssize_t)take(stream, data, capacity);
        if (stream->paused && !stream->finished && !stream->continue_posted &&
            stream->count <= RING_BYTES / 2) {
            stream->paused = false;
            stream->continue_posted = true;
            post(stream, &stream->continue_task);
        }
    } else if (stream->error && stream->left > 0 && capacity > 0) {
        result = error_set(error, error_kind_of(stream->error), "%s", error_message(stream->error));
    }
    pthread_mutex_unlock(&stream->lock);
    return result;
}

void blob_stream_close(struct blob_stream *stream)
{
    if (!stream) return;
    pthread_mutex_lock(&stream->lock);
    if (!stream->finished && !stream->closed) post(stream, &stream->close_task);
    stream->closed = true;
    unlock_and_drop(stream);
}
