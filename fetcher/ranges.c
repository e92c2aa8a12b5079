/*
 * registry_fetch_ranges(): several runs of a blob's bytes by one question, where
 * the host answers such a one; else one after the other. Each attempt asks for
 * what is still missing. A host that answers several ranges otherwise than with
 * these ranges is well nevertheless: it is asked for one at a time for a while.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/log.h"
#include "fetcher/byteranges-internal.h"
#include "fetcher/call-internal.h"
#include "fetcher/clock-internal.h"
#include "fetcher/content_range-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/ranged-internal.h"

#define SINGLE_MS (10u * 60 * 1000)

/* A server may join ranges with less between them than another part's headers have (RFC 9110
 * section 15.3.7.2), and some are generous. */
#define GAP_MAX (64u << 10)

/* Read and thrown away for the sake of one range, where a server gives whole blobs only. */
#define SKIP_LIMIT (64u << 20)

#define LIST_ITEM_SIZE (2 * 20 + 2) /* "first-last," */

enum shape {
    ONE,      /* the first that is missing was asked for */
    PARTS,    /* several were; the answer is in parts ... */
    ONE_PART, /* ... or is one of them, or of some that lie beside each other */
};

struct wanted {
    struct registry_range asked;
    struct ranged ranged; /* what is missing */
    struct buffer body;   /* without `part` */
    bool settled;         /* `done` was called */
};

struct ranges {
    struct request request;
    char *registry, *repository;
    struct digest digest;
    struct range_time time;
    bool several;          /* the exchange asks for several */
    bool unfit;            /* it was answered otherwise */
    enum shape shape;      /* of the answer */
    struct wanted *single; /* the one that is asked for */
    struct byteranges parser;
    uint64_t part_at, part_end; /* of the part that comes */
    uint64_t received;          /* bytes of the answer */
    bool progressed;            /* it has completed a range */
    bool over;                  /* it said that there are no more parts */
    struct transfer_task task;
    struct error *refused; /* the arguments were wrong */
    char list[REGISTRY_RANGES_MAX * LIST_ITEM_SIZE + 1];
    size_t count;
    struct wanted wanted[];
};

static struct ranges *ranges_of(struct request *request)
{
    return container_of(request, struct ranges, request);
}

static struct wanted *first_missing(struct ranges *ranges)
{
    for (size_t i = 0; i < ranges->count; i++)
        if (!ranges->wanted[i].settled) return &ranges->wanted[i];
    return NULL;
}

static void release(struct ranges *ranges)
{
    request_release(&ranges->request);
    free(ranges->registry);
    free(ranges->repository);
    for (size_t i = 0; i < ranges->count; i++)
        buffer_free(&ranges->wanted[i].body);
    free(ranges);
}

/* ---- bytes ---- */

/* `length` bytes that are the next of those that were asked for. */
static int hand_over(struct wanted *wanted, const uint8_t *data, size_t length,
                     struct error **error)
{
    const struct registry_range *asked = &wanted->asked;
    if (asked->part) {
        if (length > 0) asked->part(asked->context, data, length);
        return 0;
    }
    if (!wanted->body.data) {
        /* Exactly as much as was asked for: the callee keeps the memory. */
        wanted->body.data = malloc(asked->length);
        wanted->body.capacity = wanted->body.data ? asked->length : 0;
    }
    if (buffer_append(&wanted->body, data, length) < 0) return error_set_memory(error);
    return 0;
}

static void complete(struct ranges *ranges, struct wanted *wanted)
{
    wanted->settled = true;
    wanted->asked.done(wanted->asked.context, &wanted->body, NULL);
    buffer_free(&wanted->body);
    ranges->progressed = true;
    request_made_progress(&ranges->request);
    /* Whatever becomes of the rest of the answer, there is nothing more to ask for. */
    if (!first_missing(ranges)) ranges->request.enough = true;
}

/* ---- the question ---- */

static bool is_single_host(const struct registry_host *host)
{
    return host->single_until > clock_ms();
}

static void ask_for_several(struct ranges *ranges)
{
    size_t length = 0;
    for (size_t i = 0; i < ranges->count; i++) {
        const struct ranged *ranged = &ranges->wanted[i].ranged;
        if (ranges->wanted[i].settled) continue;
        length +=
            (size_t)snprintf(ranges->list + length, sizeof ranges->list - length, "%s%llu-%llu",
                             length ? "," : "", (unsigned long long)ranged->offset,
                             (unsigned long long)(ranged->offset + ranged->length - 1));
    }
    ranges->request.range_list = ranges->list;
}

/* Who broke off once may do so at the sight of several: the next attempt asks for one. */
static void ask(struct request *request)
{
    struct ranges *ranges = ranges_of(request);
    size_t missing = 0;
    for (size_t i = 0; i < ranges->count; i++)
        missing += !ranges->wanted[i].settled;
    ranges->single = first_missing(ranges);
    ranges->several = missing > 1 && request->attempt == 1 && !is_single_host(request->host);
    ranges->unfit = ranges->progressed = ranges->over = false;
    ranges->received = 0;
    request->range_list = NULL;
    request->range_offset = ranges->single->ranged.offset;
    request->range_length = ranges->single->ranged.length;
    if (ranges->several) ask_for_several(ranges);
}

/* ---- the answer ---- */

/* The bytes from `first` to `last` come now: are they ranges that were asked for, in whole, and
 * next to nothing else? */
static int begin_part(struct ranges *ranges, uint64_t first, uint64_t last, struct error **error)
{
    struct request *request = &ranges->request;
    uint64_t gap = last - first + 1, end = last + 1;
    bool begins = false, ends = false, cuts = false;
    for (size_t i = 0; i < ranges->count; i++) {
        const struct ranged *ranged = &ranges->wanted[i].ranged;
        uint64_t ranged_end = ranged->offset + ranged->length;
        if (ranged->length == 0 || ranged_end <= first || ranged->offset >= end) continue;
        cuts = cuts || ranged->offset < first || ranged_end > end;
        begins = begins || ranged->offset == first;
        ends = ends || ranged_end == end;
        gap -= ranged->length;
    }
    if (cuts || !begins || !ends || gap > GAP_MAX)
        return error_set(error, ERROR_INVALID,
                         "the answer has a part of the blob (%llu-%llu) that was not asked for",
                         (unsigned long long)first, (unsigned long long)last);
    ranges->part_at = first;
    ranges->part_end = end;
    deliveries_note(&request->client->deliveries, request->host, &ranges->digest, first,
                    end - first);
    return 0;
}

/* Of the part's next `length` bytes, how many are of one range, which is then set, or of none. */
static size_t find_owner(struct ranges *ranges, size_t length, struct wanted **ret)
{
    uint64_t count = length;
    *ret = NULL;
    for (size_t i = 0; i < ranges->count; i++) {
        struct wanted *wanted = &ranges->wanted[i];
        const struct ranged *ranged = &wanted->ranged;
        if (wanted->settled || ranged->offset < ranges->part_at) continue;
        if (ranged->offset == ranges->part_at) {
            *ret = wanted;
            return ranged->length < length ? (size_t)ranged->length : length;
        }
        if (ranged->offset - ranges->part_at < count) count = ranged->offset - ranges->part_at;
    }
    return (size_t)count;
}

static int take_part(struct ranges *ranges, const uint8_t *data, size_t length,
                     struct error **error)
{
    while (length > 0) {
        struct wanted *wanted;
        size_t count = find_owner(ranges, length, &wanted);
        if (wanted && hand_over(wanted, data, count, error) < 0) return -1;
        ranges->part_at += count;
        data += count;
        length -= count;
        if (!wanted) continue;
        wanted->ranged.offset += count;
        wanted->ranged.length -= count;
        if (wanted->ranged.length == 0) complete(ranges, wanted);
    }
    return 0;
}

static int begin_one_part(struct ranges *ranges, const struct answer *answer, struct error **error)
{
    uint64_t first, last;
    if (!answer->content_range || !content_range_parse(answer->content_range, &first, &last) ||
        last < first)
        return error_set(error, ERROR_INVALID, "the partial answer does not say which part it is");
    if (answer->content_length >= 0 && (uint64_t)answer->content_length != last - first + 1)
        return error_set(error, ERROR_INVALID, "the answer has not as many bytes as it says");
    ranges->shape = ONE_PART;
    return begin_part(ranges, first, last, error);
}

static int begin_several(struct ranges *ranges, struct error **error)
{
    const struct answer *answer = &ranges->request.exchange.answer;
    if (answer->status != 206)
        return error_set(error, ERROR_INVALID, "HTTP %ld instead of parts of the blob",
                         answer->status);
    bool parts =
        answer->content_type && strcasecmp(answer->content_type, "multipart/byteranges") == 0;
    if (!parts) return begin_one_part(ranges, answer, error);
    ranges->shape = PARTS;
    const char *parameters = answer->content_parameters ? answer->content_parameters : "";
    return byteranges_begin(&ranges->parser, parameters, error);
}

static int begin(struct request *request, struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    if (ranges->several) {
        int result = begin_several(ranges, error);
        ranges->unfit = result < 0;
        return result;
    }
    struct ranged *ranged = &ranges->single->ranged;
    ranges->shape = ONE;
    if (ranged_begin(ranged, request, 0, error) < 0) return -1;
    deliveries_note(&request->client->deliveries, request->host, &ranges->digest, ranged->offset,
                    ranged->length);
    return 0;
}

static enum taken take_single(struct ranges *ranges, const uint8_t *data, size_t length,
                              struct error **error)
{
    struct wanted *wanted = ranges->single;
    size_t count = length;
    ranged_trim(&wanted->ranged, &data, &count);
    if (hand_over(wanted, data, count, error) < 0) return TAKEN_TOO_MUCH;
    bool more = ranged_advance(&wanted->ranged, &ranges->request, length);
    if (wanted->ranged.length == 0 && !wanted->settled) complete(ranges, wanted);
    return more ? TAKEN : TAKEN_ENOUGH;
}

static enum taken take_one_part(struct ranges *ranges, const uint8_t *data, size_t length,
                                struct error **error)
{
    uint64_t left = ranges->part_end - ranges->part_at;
    ranges->over = left <= length;
    if (take_part(ranges, data, ranges->over ? (size_t)left : length, error) < 0)
        return TAKEN_TOO_MUCH;
    return TAKEN;
}

static enum taken take_parts(struct ranges *ranges, const uint8_t *data, size_t length,
                             struct error **error)
{
    const uint8_t *bytes;
    size_t count;
    struct byteranges *parser = &ranges->parser;
    while (length > 0 && !ranges->over && first_missing(ranges)) {
        switch (byteranges_next(parser, &data, &length, &bytes, &count, error)) {
        case BYTERANGES_MORE:
            break;
        case BYTERANGES_PART:
            ranges->unfit = begin_part(ranges, parser->first, parser->last, error) < 0;
            break;
        case BYTERANGES_BYTES:
            if (take_part(ranges, bytes, count, error) < 0) return TAKEN_TOO_MUCH;
            break;
        case BYTERANGES_END:
            ranges->over = true;
            break;
        case BYTERANGES_WRONG:
            ranges->unfit = true;
            break;
        }
        if (ranges->unfit) return TAKEN_WRONG;
    }
    return TAKEN;
}

/* Nothing more is wanted of the answer. Reading to its end keeps the connection, where the end is
 * near. */
static enum taken take_rest(const struct ranges *ranges)
{
    int64_t announced = ranges->request.exchange.answer.content_length;
    bool near = announced >= 0 && (uint64_t)announced >= ranges->received &&
                (uint64_t)announced - ranges->received <= BYTERANGES_LINE_MAX;
    return near ? TAKEN : TAKEN_ENOUGH;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    enum taken taken = TAKEN;
    ranges->received += length;
    if (ranges->shape == ONE) return take_single(ranges, data, length, error);
    if (!ranges->over && first_missing(ranges))
        taken = ranges->shape == PARTS ? take_parts(ranges, data, length, error)
                                       : take_one_part(ranges, data, length, error);
    bool all = ranges->over || !first_missing(ranges);
    return taken == TAKEN && all ? take_rest(ranges) : taken;
}

static void note_single(struct ranges *ranges)
{
    struct registry_host *host = ranges->request.host;
    if (!is_single_host(host))
        log_info("host %s gives one range at a time, although asked for several", host->name);
    host->single_until = clock_ms() + SINGLE_MS;
    atomic_store(&ranges->request.client->single_until, host->single_until);
}

static int end(struct request *request, struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    if (ranges->shape == ONE) return ranged_end(&ranges->single->ranged, error);
    if (!ranges->over)
        return error_set(error, ERROR_UNREACHABLE, "the answer in parts ended early");
    if (ranges->shape == ONE_PART) note_single(ranges); /* something is missing */
    if (ranges->progressed) return 0;
    ranges->unfit = true;
    return error_set(error, ERROR_INVALID, "the answer has no part of what was asked for");
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
    note_single(ranges);
    return true;
}

/* ---- question after question ---- */

/* Takes `error`. */
static void fail_missing(struct ranges *ranges, struct error *error)
{
    struct wanted *wanted;
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
    if (!first_missing(ranges)) {
        error_free(error);
        release(ranges);
    } else if (error) {
        fail_missing(ranges, error);
    } else {
        ask_on(ranges);
    }
}

static const struct request_operations operations = { .begin = begin,
                                                      .bytes = take_bytes,
                                                      .end = end,
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

static bool overlap(const struct registry_range *one, const struct registry_range *other)
{
    return one->offset < other->offset + other->length && other->offset < one->offset + one->length;
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
        for (size_t other = 0; other < i; other++)
            if (overlap(asked, &ranges->wanted[other].asked))
                return error_set(error, ERROR_INVALID, "get blob: ranges overlap at %llu",
                                 (unsigned long long)asked->offset);
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
    for (size_t i = 0; i < count; i++) {
        struct wanted *wanted = &ranges->wanted[i];
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
