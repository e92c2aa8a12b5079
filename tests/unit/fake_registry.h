/*
 * A registry in memory that takes the place of the client's
 * registry_fetch_range(): it answers from a thread of its own, and a test
 * decides when, and with what. (The program must not use anything else of
 * fetcher/, or both definitions would be linked.)
 */
#ifndef SLUICE_TESTS_FAKE_REGISTRY_H
#define SLUICE_TESTS_FAKE_REGISTRY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "fetcher/registry.h"

#define FAKE_LOG_MAX 8192u

struct fake_request {
    struct digest digest;
    uint64_t offset;
    size_t length;
    struct range_time time;
    range_part *part; /* or NULL */
    range_done *done;
    void *context;
    STAILQ_ENTRY(fake_request) link;
};

struct fake_blob {
    struct digest digest;
    const uint8_t *data;
    size_t length;
    unsigned requests;
};

static struct fake_registry {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    STAILQ_HEAD(, fake_request) queue;
    struct fake_blob blobs[2]; /* layer and windows */
    bool holds;                /* answers nothing */
    bool unreachable;          /* answers with errors */
    size_t stalls_at;          /* so many bytes of each answer come, and then no more (0: all do) */
    unsigned tried_in_vain;    /* so many requests end when it was tried again for long enough */
    unsigned corrupts;         /* so many answers are damaged (UINT_MAX: all) */
    uint64_t corrupt_offset;   /* in the blob: only where a range covers it (UINT64_MAX: all) */
    unsigned damage_reports;
    bool single;     /* one range a request */
    unsigned joined; /* ranges that shared another's request */
    unsigned waiting;
    size_t waiting_bytes, waiting_bytes_most;
    struct {
        uint64_t offset;
        size_t length;
    } log[FAKE_LOG_MAX]; /* of the layer's blob */
    bool ending;
    pthread_t thread;
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static inline void fake_take(struct fake_request *request)
{
    for (unsigned i = 0; i < 2; i++) {
        struct fake_blob *blob = &fake.blobs[i];
        if (!digest_equal(&blob->digest, &request->digest)) continue;
        if (i == 0 && blob->requests < FAKE_LOG_MAX) {
            fake.log[blob->requests].offset = request->offset;
            fake.log[blob->requests].length = request->length;
        }
        blob->requests++;
    }
}

void registry_report_damage(struct registry_client *client, const struct digest *digest,
                            uint64_t offset, uint64_t length)
{
    (void)client, (void)digest, (void)offset, (void)length;
    pthread_mutex_lock(&fake.lock);
    fake.damage_reports++;
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_ask(const struct digest *digest, uint64_t offset, size_t length,
                            struct range_time time, range_part *part, range_done *done,
                            void *context)
{
    struct fake_request *request = malloc(sizeof *request);
    if (!request) abort();
    *request =
        (struct fake_request){ *digest, offset, length, time, part, done, context, { NULL } };
    pthread_mutex_lock(&fake.lock);
    fake_take(request);
    STAILQ_INSERT_TAIL(&fake.queue, request, link);
    fake.waiting++;
    fake.waiting_bytes += length;
    if (fake.waiting_bytes > fake.waiting_bytes_most) fake.waiting_bytes_most = fake.waiting_bytes;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

void registry_fetch_range(struct registry_client *client, const struct repository *repository,
                          const struct digest *digest, uint64_t offset, size_t length,
                          struct range_time time, range_done *done, void *context)
{
    (void)client, (void)repository;
    fake_ask(digest, offset, length, time, NULL, done, context);
}

void registry_stream_range(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, uint64_t offset, size_t length,
                           struct range_time time, range_part *part, range_done *done,
                           void *context)
{
    (void)client, (void)repository;
    fake_ask(digest, offset, length, time, part, done, context);
}

/* Each is answered as if it was asked for alone. */
void registry_fetch_ranges(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, const struct registry_range *ranges,
                           size_t count, struct range_time time)
{
    (void)client, (void)repository;
    pthread_mutex_lock(&fake.lock);
    fake.joined += (unsigned)count - 1;
    pthread_mutex_unlock(&fake.lock);
    for (size_t i = 0; i < count; i++)
        fake_ask(digest, ranges[i].offset, ranges[i].length, time, ranges[i].part, ranges[i].done,
                 ranges[i].context);
}

bool registry_takes_ranges(struct registry_client *client)
{
    (void)client;
    pthread_mutex_lock(&fake.lock);
    bool takes = !fake.single;
    pthread_mutex_unlock(&fake.lock);
    return takes;
}

/* With the lock held: what is answered, or NULL. */
static uint8_t *fake_body(const struct fake_request *request)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct fake_blob *blob = &fake.blobs[i];
        if (!digest_equal(&blob->digest, &request->digest)) continue;
        if (request->length > blob->length || request->offset > blob->length - request->length)
            return NULL;
        uint8_t *body = malloc(request->length);
        if (!body) abort();
        memcpy(body, blob->data + request->offset, request->length);
        bool covers = fake.corrupt_offset >= request->offset &&
                      fake.corrupt_offset - request->offset < request->length;
        if (fake.corrupts > 0 && (fake.corrupt_offset == UINT64_MAX || covers)) {
            body[covers ? fake.corrupt_offset - request->offset : request->length / 2] ^= 0x55;
            if (fake.corrupts != UINT32_MAX) fake.corrupts--;
        }
        return body;
    }
    return NULL;
}

static inline void fake_stall_at(size_t bytes)
{
    pthread_mutex_lock(&fake.lock);
    fake.stalls_at = bytes;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_wait_for_stall(size_t sent)
{
    pthread_mutex_lock(&fake.lock);
    while (fake.stalls_at > 0 && sent >= fake.stalls_at && !fake.ending)
        pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

/* Pieces of odd lengths, as they come from a network. */
static inline void fake_send_parts(const struct fake_request *request, const uint8_t *body)
{
    size_t length = 1;
    for (size_t sent = 0; sent < request->length; sent += length) {
        fake_wait_for_stall(sent);
        length = length * 3 % 50021;
        if (length > request->length - sent) length = request->length - sent;
        request->part(request->context, body + sent, length);
    }
}

static inline void fake_answer(struct fake_request *request, bool failing, uint8_t *body)
{
    struct buffer buffer = { body, request->length, request->length };
    struct error *error = NULL;
    if (!body)
        error_set(&error, ERROR_UNREACHABLE, "the registry does not answer%s",
                  failing ? "" : " that");
    if (body && request->part) {
        fake_send_parts(request, body);
        buffer.length = 0;
    }
    request->done(request->context, body ? &buffer : NULL, error);
    buffer_free(&buffer);
    free(request);
}

static void *fake_loop(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&fake.lock);
    while (!fake.ending) {
        struct fake_request *request = STAILQ_FIRST(&fake.queue);
        if (!request || fake.holds) {
            pthread_cond_wait(&fake.changed, &fake.lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&fake.queue, link);
        fake.waiting--;
        fake.waiting_bytes -= request->length;
        bool failing = fake.unreachable, in_vain = fake.tried_in_vain > 0;
        if (in_vain) fake.tried_in_vain--;
        failing = failing || in_vain;
        uint8_t *body = failing ? NULL : fake_body(request);
        pthread_mutex_unlock(&fake.lock);
        if (in_vain) usleep(request->time.retry_ms * 1000);
        fake_answer(request, failing, body);
        pthread_mutex_lock(&fake.lock);
    }
    pthread_mutex_unlock(&fake.lock);
    return NULL;
}

static inline void fake_start(void)
{
    STAILQ_INIT(&fake.queue);
    memset(fake.blobs, 0, sizeof fake.blobs);
    fake.holds = fake.unreachable = fake.ending = false;
    fake.corrupts = fake.tried_in_vain = 0;
    fake.stalls_at = 0;
    fake.corrupt_offset = UINT64_MAX;
    fake.single = false;
    fake.joined = 0;
    fake.waiting = 0;
    fake.waiting_bytes = fake.waiting_bytes_most = 0;
    if (pthread_create(&fake.thread, NULL, fake_loop, NULL) != 0) abort();
}

/* Answers what still waits, as a client that is freed does. */
static inline void fake_stop(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.ending = true;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
    pthread_join(fake.thread, NULL);
    struct fake_request *request;
    while ((request = STAILQ_FIRST(&fake.queue))) {
        STAILQ_REMOVE_HEAD(&fake.queue, link);
        fake_answer(request, true, NULL);
    }
}

static inline void fake_hold(bool holds)
{
    pthread_mutex_lock(&fake.lock);
    fake.holds = holds;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_be_unreachable(bool unreachable)
{
    pthread_mutex_lock(&fake.lock);
    fake.unreachable = unreachable;
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_try_in_vain(unsigned requests)
{
    pthread_mutex_lock(&fake.lock);
    fake.tried_in_vain = requests;
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_corrupt(unsigned answers, uint64_t offset)
{
    pthread_mutex_lock(&fake.lock);
    fake.corrupts = answers;
    fake.corrupt_offset = offset;
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_wait_waiting(unsigned requests)
{
    pthread_mutex_lock(&fake.lock);
    while (fake.waiting < requests)
        pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

/* So far, of the layer's blob (0) or the windows blob (1). */
static inline unsigned fake_requests(unsigned blob)
{
    pthread_mutex_lock(&fake.lock);
    unsigned requests = fake.blobs[blob].requests;
    pthread_mutex_unlock(&fake.lock);
    return requests;
}

#endif
