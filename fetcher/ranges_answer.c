#include <stdlib.h>
#include <strings.h>

#include "fetcher/content_range-internal.h"
#include "fetcher/ranges-internal.h"

/* A server may join ranges with less between them than another part's headers have (RFC 9110
 * section 15.3.7.2), and some are generous. */
#define GAP_MAX (64u << 10)

static bool is_awaited(const struct wanted_range *wanted)
{
    return wanted->is_asked && !wanted->settled;
}

static bool awaits_more(const struct ranges *ranges)
{
    for (size_t i = 0; i < ranges->count; i++)
        if (is_awaited(&ranges->wanted[i])) return true;
    return false;
}

/* ---- bytes ---- */

/* `length` bytes that are the next of those that were asked for. */
static int hand_over(struct ranges *ranges, struct wanted_range *wanted, const uint8_t *data,
                     size_t length, struct error **error)
{
    const struct registry_range *asked = &wanted->asked;
    struct request *request = &ranges->request;
    if (length == 0) return 0;
    deliveries_note(&request->client->deliveries, request->host, &ranges->digest,
                    wanted->ranged.offset, length);
    if (asked->part) {
        asked->part(asked->context, data, length);
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

static void complete(struct ranges *ranges, struct wanted_range *wanted)
{
    wanted->settled = true;
    wanted->asked.done(wanted->asked.context, &wanted->body, NULL);
    buffer_free(&wanted->body);
    ranges->progressed = true;
    request_made_progress(&ranges->request);
    /* Whatever becomes of the rest of the answer, it has served its purpose. */
    if (ranges->shape == ANSWER_ONE || !awaits_more(ranges)) ranges->request.enough = true;
}

/* ---- the answer ---- */

/* The bytes from `first` to `last` come now: are they ranges that were asked for, in whole, and
 * next to nothing else? */
static int begin_part(struct ranges *ranges, uint64_t first, uint64_t last, struct error **error)
{
    uint64_t gap = last - first + 1, end = last + 1;
    bool begins = false, ends = false, cuts = false;
    for (size_t i = 0; i < ranges->count; i++) {
        const struct ranged *ranged = &ranges->wanted[i].ranged;
        uint64_t ranged_end = ranged->offset + ranged->length;
        if (!is_awaited(&ranges->wanted[i]) || ranged_end <= first || ranged->offset >= end)
            continue;
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
    return 0;
}

/* Of the part's next `length` bytes, how many are of one range, which is then set, or of none. */
static size_t find_owner(struct ranges *ranges, size_t length, struct wanted_range **ret)
{
    uint64_t count = length;
    *ret = NULL;
    for (size_t i = 0; i < ranges->count; i++) {
        struct wanted_range *wanted = &ranges->wanted[i];
        const struct ranged *ranged = &wanted->ranged;
        if (!is_awaited(wanted) || ranged->offset < ranges->part_at) continue;
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
        struct wanted_range *wanted;
        size_t count = find_owner(ranges, length, &wanted);
        if (wanted && hand_over(ranges, wanted, data, count, error) < 0) return -1;
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
    ranges->shape = ANSWER_ONE_PART;
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
    ranges->shape = ANSWER_PARTS;
    const char *parameters = answer->content_parameters ? answer->content_parameters : "";
    return byteranges_begin(&ranges->parser, parameters, error);
}

int ranges_begin(struct request *request, struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    if (ranges->several) {
        int result = begin_several(ranges, error);
        ranges->unfit = result < 0;
        return result;
    }
    struct ranged *ranged = &ranges->single->ranged;
    ranges->shape = ANSWER_ONE;
    return ranged_begin(ranged, request, 0, error);
}

static enum taken take_single(struct ranges *ranges, const uint8_t *data, size_t length,
                              struct error **error)
{
    struct wanted_range *wanted = ranges->single;
    size_t count = length;
    ranged_trim(&wanted->ranged, &data, &count);
    if (hand_over(ranges, wanted, data, count, error) < 0) return TAKEN_TOO_MUCH;
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
    while (length > 0 && !ranges->over && awaits_more(ranges)) {
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

enum taken ranges_take(struct request *request, const uint8_t *data, size_t length,
                       struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    enum taken taken = TAKEN;
    ranges->received += length;
    if (ranges->shape == ANSWER_ONE) return take_single(ranges, data, length, error);
    if (!ranges->over && awaits_more(ranges))
        taken = ranges->shape == ANSWER_PARTS ? take_parts(ranges, data, length, error)
                                              : take_one_part(ranges, data, length, error);
    bool all = ranges->over || !awaits_more(ranges);
    return taken == TAKEN && all ? take_rest(ranges) : taken;
}

int ranges_end(struct request *request, struct error **error)
{
    struct ranges *ranges = ranges_of(request);
    if (ranges->shape == ANSWER_ONE) return ranged_end(&ranges->single->ranged, error);
    if (!ranges->over && awaits_more(ranges))
        return error_set(error, ERROR_UNREACHABLE, "the answer in parts ended early");
    if (ranges->shape == ANSWER_ONE_PART && awaits_more(ranges)) ranges_note_single(ranges);
    if (ranges->progressed) return 0;
    ranges->unfit = true;
    return error_set(error, ERROR_INVALID, "the answer has no part of what was asked for");
}
