/*
 * registry_fetch_range(): a run of a blob's bytes, for a callback.
 *
 * A question whose answer takes far longer than others of its host (pace.h) is asked once more, of
 * another host where there is one, on a new connection in any case. Both answers are taken as they
 * come, and whoever is first to have brought the last byte ends the other.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/call-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/ranged-internal.h"

/* Read and thrown away for the sake of one range, where a server gives whole blobs only. */
#define SKIP_LIMIT (64u << 20)

struct range;

/* A question for what is missing. */
struct question {
    struct request request;
    struct ranged ranged;
    struct range *range;
    bool alive;          /* has not ended */
    uint64_t begins_at;  /* clock_ms() of its answer */
    uint64_t began_with; /* bytes that were missing then */
};

struct range {
    struct registry_client *client;
    struct question first, second;
    struct digest digest;
    uint64_t at, end;   /* in the blob: what is missing */
    struct buffer body; /* what has arrived, over all attempts; with `part` none of it */
    size_t length;
    range_part *part; /* or NULL */
    range_done *done;
    void *context;
    struct range_time time;
    uint64_t begun; /* clock_ms() */
    struct transfer_timer patience;
    uint64_t received, seen;   /* bytes of all answers; when the timer was started */
    bool settled;              /* `done` was called, or is about to be */
    struct transfer_task task; /* begins, or gives `refused` where the arguments were wrong */
    struct error *refused;
};

static void release(struct range *range)
{
    request_release(&range->first.request);
    request_release(&range->second.request);
    buffer_free(&range->body);
    free(range);
}

static struct question *question_of(struct request *request)
{
    return container_of(request, struct question, request);
}

/* ---- answers ---- */

/* From now on. */
static void be_patient(struct range *range)
{
    const struct request *request = &range->first.request;
    range->seen = range->received;
    transfer_timer_start(range->client->thread, &range->patience,
                         pace_patience_ms(&request->host->pace));
}

/* The other question may have brought some of it, or all of it a moment ago. */
static void ask(struct request *request)
{
    struct question *question = question_of(request);
    struct range *range = question->range;
    uint64_t from = range->at < range->end ? range->at : range->end - 1;
    question->ranged.offset = request->range_offset = from;
    question->ranged.length = request->range_length = range->end - from;
    if (question == &range->first && !range->second.range) be_patient(range);
}

static struct pace *pace_of(const struct request *request)
{
    return &request->host->pace;
}

/* The time that a question spends waiting for a connection is none of the host's. */
static void note_wait(const struct request *request)
{
    curl_off_t sent = 0, came = 0;
    curl_easy_getinfo(request->exchange.easy, CURLINFO_PRETRANSFER_TIME_T, &sent);
    curl_easy_getinfo(request->exchange.easy, CURLINFO_STARTTRANSFER_TIME_T, &came);
    if (sent > 0 && came >= sent) pace_note_wait(pace_of(request), (uint64_t)(came - sent));
}

static int begin(struct request *request, struct error **error)
{
    struct question *question = question_of(request);
    if (ranged_begin(&question->ranged, request, 0, error) < 0) return -1;
    note_wait(request);
    question->begins_at = clock_ms();
    question->began_with = question->ranged.length;
    return 0;
}

/* Of bytes that are at `offset` in the blob: those that are missing. */
static int deliver(struct range *range, struct registry_host *from, uint64_t offset,
                   const uint8_t *data, size_t length, struct error **error)
{
    uint64_t known = range->at - offset;
    if (known >= length) return 0;
    data += known;
    length -= (size_t)known;
    deliveries_note(&range->client->deliveries, from, &range->digest, range->at, length);
    range->at += length;
    if (range->part) {
        range->part(range->context, data, length);
        return 0;
    }
    if (!range->body.data) {
        /* Exactly as much as was asked for: the callee keeps the memory. */
        range->body.data = malloc(range->length);
        range->body.capacity = range->body.data ? range->length : 0;
    }
    return buffer_append(&range->body, data, length) < 0 ? error_set_memory(error) : 0;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct question *question = question_of(request);
    struct range *range = question->range;
    size_t wanted = length;
    range->received += length;
    ranged_trim(&question->ranged, &data, &wanted);
    if (deliver(range, request->host, question->ranged.offset, data, wanted, error) < 0)
        return TAKEN_TOO_MUCH;
    return ranged_advance(&question->ranged, request, length) ? TAKEN : TAKEN_ENOUGH;
}

static int end(struct request *request, struct error **error)
{
    const struct question *question = question_of(request);
    if (ranged_end(&question->ranged, error) < 0) return -1;
    pace_note_rate(pace_of(request), question->began_with, clock_ms() - question->begins_at);
    return 0;
}

/* Takes `error`. */
static void settle(struct range *range, struct error *error)
{
    range->settled = true;
    transfer_timer_stop(range->client->thread, &range->patience);
    if (range->first.alive) request_cancel(&range->first.request);
    if (range->second.alive) request_cancel(&range->second.request);
    range->done(range->context, error ? NULL : &range->body, error);
    release(range);
}

static void finished(struct request *request, struct error *error)
{
    struct question *question = question_of(request);
    struct range *range = question->range;
    question->alive = false;
    bool other = range->first.alive || range->second.alive;
    if (range->settled || (error && other))
        error_free(error);
    else
        settle(range, error);
}

/* ---- questions ---- */

static const struct request_operations operations = {
    .begin = begin, .bytes = take_bytes, .end = end, .done = finished, .ask = ask
};

static int prepare(struct question *question, struct range *range, const char *registry,
                   const char *repository, struct error **error)
{
    struct request *request = &question->request;
    char text[DIGEST_TEXT_SIZE];
    digest_format(&range->digest, text);
    question->range = range;
    question->ranged.skip_limit = SKIP_LIMIT;
    request->client = range->client;
    request->operations = &operations;
    request->method = "GET";
    request->access = ACCESS_PULL;
    request->needed = HOST_PULL;
    request->keep_redirect = true;
    request->range_offset = range->at;
    request->range_length = range->end - range->at;
    request->registry = strdup(registry);
    request->repository = strdup(repository);
    request->path = format_text("%s/blobs/%s", repository, text);
    request->what =
        format_text("get bytes %llu-%llu of blob '%s@%s'", (unsigned long long)range->at,
                    (unsigned long long)(range->end - 1), repository, text);
    if (!request->registry || !request->repository || !request->path || !request->what)
        return error_set_memory(error);
    return 0;
}

static unsigned left_of(unsigned milliseconds, uint64_t spent)
{
    return spent < milliseconds ? milliseconds - (unsigned)spent : 0;
}

/* Its question is out, and not enough has come since the timer was started. */
static bool is_late(const struct range *range)
{
    return request_is_out(&range->first.request) && range->received - range->seen < PACE_PROGRESS;
}

static void ask_again(struct range *range)
{
    const struct request *first = &range->first.request;
    struct request *second = &range->second.request;
    uint64_t spent = clock_ms() - range->begun;
    struct error *error = NULL;
    unsigned timeout_ms = left_of(range->time.timeout_ms, spent);
    if (range->time.timeout_ms && timeout_ms == 0) return;
    if (prepare(&range->second, range, first->registry, first->repository, &error) < 0) {
        error_free(error);
        return; /* the first may yet be answered */
    }
    log_info("registry %s: %s: no answer from %s in the time that others take; asking again",
             first->registry, first->what, first->host->name);
    second->timeout_ms = timeout_ms;
    second->retry_ms = left_of(range->time.retry_ms, spent);
    second->shunned = UINT32_C(1) << first->host->position;
    second->exchange.fresh = true;
    range->second.alive = true;
    request_start(second);
}

static void on_patience(struct transfer_timer *timer)
{
    struct range *range = container_of(timer, struct range, patience);
    if (!is_late(range))
        be_patient(range);
    else if (allowance_take(&range->client->repeats))
        ask_again(range);
}

/* ---- the call ---- */

static void start(struct transfer_task *task)
{
    struct range *range = container_of(task, struct range, task);
    if (range->refused) {
        settle(range, range->refused);
        return;
    }
    range->begun = clock_ms();
    range->first.alive = true;
    allowance_earn(&range->client->repeats);
    range->patience.fire = on_patience;
    request_start(&range->first.request);
}

static int check(const struct repository *repository, uint64_t offset, size_t length,
                 struct error **error)
{
    if (length == 0 || length > SIZE_MAX / 2 || offset > INT64_MAX - (uint64_t)length)
        return error_set(error, ERROR_INVALID, "get blob: no valid range: %zu bytes at %llu",
                         length, (unsigned long long)offset);
    return repository_check(repository, error);
}

static void fetch(struct registry_client *client, const struct repository *repository,
                  const struct digest *digest, uint64_t offset, size_t length,
                  struct range_time time, range_part *part, range_done *done, void *context)
{
    struct range *range = calloc(1, sizeof *range);
    if (!range) {
        /* There is nothing that could be handed to the other thread. */
        struct error *error = NULL;
        error_set_memory(&error);
        done(context, NULL, error);
        return;
    }
    *range = (struct range){ .client = client,
                             .digest = *digest,
                             .at = offset,
                             .end = offset + length,
                             .length = length,
                             .part = part,
                             .done = done,
                             .context = context,
                             .time = time,
                             .task.run = start };
    range->first.request.timeout_ms = time.timeout_ms;
    range->first.request.retry_ms = time.retry_ms;
    if (check(repository, offset, length, &range->refused) == 0)
        prepare(&range->first, range, repository->registry, repository->name, &range->refused);
    transfer_post(client->thread, &range->task);
}

void registry_fetch_range(struct registry_client *client, const struct repository *repository,
                          const struct digest *digest, uint64_t offset, size_t length,
                          struct range_time time, range_done *done, void *context)
{
    fetch(client, repository, digest, offset, length, time, NULL, done, context);
}

void registry_stream_range(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, uint64_t offset, size_t length,
                           struct range_time time, range_part *part, range_done *done,
                           void *context)
{
    fetch(client, repository, digest, offset, length, time, part, done, context);
}
