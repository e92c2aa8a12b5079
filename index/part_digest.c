#include "index/part-digest-internal.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/thread.h"

/* A thread costs about as much as hashing some ten thousand bytes. */
#define SHORT_BYTES (1u << 20)
/* So that it ends soon when it is not wanted any more. */
#define STEP_BYTES ((uint64_t)1 << 20)

struct part_digest {
    const uint8_t *stored;
    struct digest_stream *stream;
    uint64_t hashed;
    bool threaded;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t added;
    bool ending;    /* no further bytes come */
    bool abandoned; /* and nobody wants the digest */
};

/* ---- the thread ---- */

/* How far to hash now; what is hashed already: there is nothing more to do. */
static uint64_t wait_for_bytes(struct part_digest *digest)
{
    pthread_mutex_lock(&digest->lock);
    while (digest->added == digest->hashed && !digest->ending)
        pthread_cond_wait(&digest->changed, &digest->lock);
    uint64_t end = digest->abandoned ? digest->hashed : digest->added;
    pthread_mutex_unlock(&digest->lock);
    return end - digest->hashed > STEP_BYTES ? digest->hashed + STEP_BYTES : end;
}

static void *run(void *argument)
{
    struct part_digest *digest = argument;
    uint64_t end;
    while ((end = wait_for_bytes(digest)) > digest->hashed) {
        digest_stream_update(digest->stream, digest->stored + digest->hashed, end - digest->hashed);
        digest->hashed = end;
    }
    return NULL;
}

static void end_thread(struct part_digest *digest, bool abandon)
{
    if (!digest->threaded) return;
    pthread_mutex_lock(&digest->lock);
    digest->ending = true;
    digest->abandoned = abandon;
    pthread_cond_signal(&digest->changed);
    pthread_mutex_unlock(&digest->lock);
    pthread_join(digest->thread, NULL);
    digest->threaded = false;
}

/* ---- who adds ---- */

int part_digest_new(struct part_digest **ret, const uint8_t *stored, uint64_t length,
                    struct error **error)
{
    struct part_digest *digest = calloc(1, sizeof *digest);
    if (!digest) return error_set_memory(error);
    pthread_mutex_init(&digest->lock, NULL);
    pthread_cond_init(&digest->changed, NULL);
    digest->stored = stored;
    digest->stream = digest_stream_new();
    if (!digest->stream) {
        part_digest_free(digest);
        return error_set_memory(error);
    }
    /* Without a thread it only takes longer. */
    digest->threaded = stored && length > SHORT_BYTES &&
                       thread_start(&digest->thread, "digest", run, digest, NULL) == 0;
    *ret = digest;
    return 0;
}

void part_digest_add(struct part_digest *digest, const uint8_t *bytes, size_t length)
{
    if (!digest->threaded) {
        digest_stream_update(digest->stream,
                             digest->stored ? digest->stored + digest->added : bytes, length);
        digest->added += length;
        return;
    }
    pthread_mutex_lock(&digest->lock);
    digest->added += length;
    pthread_cond_signal(&digest->changed);
    pthread_mutex_unlock(&digest->lock);
}

void part_digest_finish(struct part_digest *digest, struct digest *ret)
{
    end_thread(digest, false);
    digest_stream_finish(digest->stream, ret);
}

void part_digest_free(struct part_digest *digest)
{
    if (!digest) return;
    end_thread(digest, true);
    digest_stream_free(digest->stream);
    pthread_mutex_destroy(&digest->lock);
    pthread_cond_destroy(&digest->changed);
    free(digest);
}
