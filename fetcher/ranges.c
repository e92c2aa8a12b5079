/*
 * registry_fetch_ranges(): several runs of a blob's bytes by one question, where
 * the host answers such a one; else one after the other. Each attempt asks for
 * what is still missing. A host that answers several ranges otherwise than with
 * these ranges is well nevertheless: it is asked for one at a time for a while.
 *
 * Somebody may have come to wait for one of the ranges, so an answer that stalls (pace.h) is given
 * up once, and what is missing is asked for again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/call-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/ranges-internal.h"

#define SINGLE_MS (10u * 60 * 1000)

/* Read and thrown away for the sake of one range, where a server gives whole blobs only. */
#define SKIP_LIMIT (64u << 20)

static struct wanted_range *first_missing(struct ranges *ranges)
{
    for (size_t i = 0; i < ranges->count; i++)
        if (!ranges->wanted[i].settled) return &ranges->wanted[i];
    return NULL;
}

/* ---- the question ---- */

static bool is_single_host(const struct registry_host *host)
{
    return host->single_until > clock_ms();
}

static bool overlap(const struct ranged *one, const struct ranged *other)
{
    return one->offset < other->offset + other->length && other->offset < one->offset + one->length;
}

static bool overlaps_asked(const struct ranges *ranges, const struct wanted_range *wanted)
{
    for (const struct wanted_range *before = ranges->wanted; before < wanted; before++)
        if (before->is_asked && overlap(&before->ranged, &wanted->ranged)) return true;
    return false;
}

/* Those that are missing, but of two that overlap one. Returns how many. */
static size_t choose(struct ranges *ranges)
{
    size_t count = 0;
    for (size_t i = 0; i < ranges->count; i++) {
        struct wanted_range *wanted = &ranges->wanted[i];
        wanted->is_asked = !wanted->settled && !overlaps_asked(ranges, wanted);
        count += wanted->is_asked;
    }
    return count;
}

static void write_list(struct ranges *ranges)
{
    size_t length = 0;
    for (size_t i = 0; i < ranges->count; i++) {
        const struct ranged *ranged = &ranges->wanted[i].ranged;
        if (!ranges->wanted[i].is_asked) continue;
        length +=
            (size_t)snprintf(ranges->list + length, sizeof ranges->list - length, "%s%llu-%llu",
                             length ? "," : "", (unsigned long long)ranged->offset,
                             (unsigned long long)(ranged->offset + ranged->length - 1));
    }
}

static void be_patient(struct ranges *ranges)
{
    const struct request *request = &ranges->request;
    ranges->seen = ranges->received;
    transfer_timer_start(request->client->thread, &ranges->patience,
                         pace_patience_ms(&request->host->pace));
}

/* More than once would be an end to what is only slow. */
static void on_patience(struct transfer_timer *timer)
{
    struct ranges *ranges = container_of(timer, struct ranges, patience);
    struct request *request = &ranges->request;
    if (ranges->hurried) return;
    bool stalls = request_is_out(request) && ranges->received - ranges->seen < PACE_PROGRESS;
    if (!stalls || request->attempt > 1 || !allowance_take(&request->client->repeats)) {
        be_patient(ranges);
        return;
    }
    ranges->hurried = true;
    request_give_up_answer(request, pace_patience_ms(&request->host->pace));
}

/* Who broke off once may do so at the sight of several: the next attempt asks for one. */
static void ask(struct request *request)
{
    struct ranges *ranges = ranges_of(request);
    bool single = request->attempt > 1 || is_single_host(request->host);
    ranges->single = first_missing(ranges);
    ranges->several = !single && choose(ranges) > 1;
    ranges->unfit = ranges->progressed = ranges->over = false;
    ranges->received = 0;
    be_patient(ranges);
    request->range_list = NULL;
    request->range_offset = ranges->single->ranged.offset;
    request->range_length = ranges->single->ranged.length;
    if (!ranges->several) return;
    write_list(ranges);
    request->range_list = ranges->list;
}

void ranges_note_single(struct ranges *ranges)
{
    struct registry_host *host = ranges->request.host;
    if (!is_single_host(host))
        log_info("host %s gives one range at a time, although asked for several", host->name);
    host->single_until = clock_ms() + SINGLE_MS;
    atomic_store(&ranges->request.client->single_until, host->single_until);
}

/* Of several ranges, by a host that may well have each of them. */
static bool is_refusal(long status)
{
    if (status == 401 || status == 403 || status == 404 || status == 408 || status == 410 ||
        status == 429)
        return false;
    return status / 100 == 4 || status == 501;
}

static bool otherwise(struct request *request)
{
    struct ranges *ranges = ranges_of(request);
    if (!ranges->several) return false;
    if (!ranges->unfit && !is_refusal(request->exchange.answer.status)) return false;
    ranges_note_single(ranges);
    return true;
}

/* ---- question after question ---- */

static void release(struct ranges *ranges)
{
    request_release(&ranges->request);
    free(ranges->registry);
    free(ranges->repository);
    for (size_t i = 0; i < ranges->count; i++)
        buffer_free(&ranges->wanted[i].body);
    free(ranges);
}

/* Takes `error`. */
static void fail_missing(struct ranges *ranges, struct error *error)
{
    struct wanted_range *wanted;
    while ((wanted = first_missing(ranges))) {
        struct error *copy = NULL;
        error_set(&copy, error_kind_of(error), "%s", error_message(error));
        wanted->settled = true;
        wanted->asked.done(wanted->asked.context, NULL, copy);
    }
    error_free(error);
    release(ranges);
}

static void ask_on(struct ranges *ranges);

static void finished(struct request *request, struct error *error)
{
    struct ranges *ranges = ranges_of(request);
    transfer_timer_stop(request->client->thread, &ranges->patience);
    if (!first_missing(ranges)) {
        error_free(error);
        release(ranges);
    } else if (error) {
        fail_missing(ranges, error);
    } else {
        ask_on(ranges);
    }
}

static const struct request_operations operations = { .begin = ranges_begin,
                                                      .bytes = ranges_take,
                                                      .end = ranges_end,
                                                      .done = finished,
                                                      .ask = ask,
                                                      .otherwise = otherwise };

static int prepare(struct ranges *ranges, struct error **error)
{
    struct request *request = &ranges->request;
    struct registry_client *client = request->client;
    char text[DIGEST_TEXT_SIZE];
    digest_format(&ranges->digest, text);
    request_release(request);
    *request = (struct request){ .client = client,
                                 .operations = &operations,
                                 .method = "GET",
                                 .access = ACCESS_PULL,
                                 .needed = HOST_PULL,
                                 .keep_redirect = true,
                                 .timeout_ms = ranges->time.timeout_ms,
                                 .retry_ms = ranges->time.retry_ms };
    request->registry = strdup(ranges->registry);
    request->repository = strdup(ranges->repository);
    request->path = format_text("%s/blobs/%s", ranges->repository, text);
    request->what =
        format_text("get %zu ranges of blob '%s@%s'", ranges->count, ranges->repository, text);
    if (!request->registry || !request->repository || !request->path || !request->what)
        return error_set_memory(error);
    return 0;
}

static void ask_on(struct ranges *ranges)
{
    struct error *error = NULL;
    if (prepare(ranges, &error) < 0)
        fail_missing(ranges, error);
    else
        request_submit(&ranges->request);
}

static int check(const struct ranges *ranges, struct error **error)
{
    if (ranges->count > REGISTRY_RANGES_MAX)
        return error_set(error, ERROR_INVALID, "get blob: %zu ranges at once", ranges->count);
    for (size_t i = 0; i < ranges->count; i++) {
        const struct registry_range *asked = &ranges->wanted[i].asked;
        if (asked->length == 0 || asked->length > SIZE_MAX / 2 ||
            asked->offset > INT64_MAX - (uint64_t)asked->length)
            return error_set(error, ERROR_INVALID, "get blob: no valid range: %zu bytes at %llu",
                             asked->length, (unsigned long long)asked->offset);
    }
    return repository_check(&(struct repository){ ranges->registry, ranges->repository }, error);
}

static void refuse(struct transfer_task *task)
{
    struct ranges *ranges = container_of(task, struct ranges, task);
    fail_missing(ranges, ranges->refused);
}

static struct ranges *ranges_new(struct registry_client *client,
                                 const struct repository *repository, const struct digest *digest,
                                 const struct registry_range *asked, size_t count,
                                 struct range_time time)
{
    struct ranges *ranges = calloc(1, sizeof *ranges + count * sizeof *ranges->wanted);
    if (!ranges) return NULL;
    ranges->request.client = client;
    ranges->registry = strdup(repository->registry);
    ranges->repository = strdup(repository->name);
    ranges->digest = *digest;
    ranges->time = time;
    ranges->count = count;
    ranges->task.run = refuse;
    ranges->patience.fire = on_patience;
    for (size_t i = 0; i < count; i++) {
        struct wanted_range *wanted = &ranges->wanted[i];
        wanted->asked = asked[i];
        wanted->ranged = (struct ranged){ .offset = asked[i].offset,
                                          .length = asked[i].length,
                                          .skip_limit = SKIP_LIMIT };
    }
    if (ranges->registry && ranges->repository) return ranges;
    release(ranges);
    return NULL;
}

void registry_fetch_ranges(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, const struct registry_range *ranges,
                           size_t count, struct range_time time)
{
    if (count == 0) return;
    struct ranges *all = ranges_new(client, repository, digest, ranges, count, time);
    if (!all) {
        /* There is nothing that could be handed to the other thread. */
        for (size_t i = 0; i < count; i++) {
            struct error *error = NULL;
            error_set_memory(&error);
            ranges[i].done(ranges[i].context, NULL, error);
        }
        return;
    }
    if (check(all, &all->refused) < 0)
        transfer_post(client->thread, &all->task);
    else
        ask_on(all);
}

bool registry_takes_ranges(struct registry_client *client)
{
    return atomic_load(&client->single_until) <= clock_ms();
}
