#include "fetcher/ranged-internal.h"

#include "base/log.h"
#include "fetcher/content_range-internal.h"
#include "fetcher/host-internal.h"

#define LEAST_SKIP (1u << 20) /* where somebody else can be asked for the range */

static int begin_partial(const struct ranged *ranged, const struct answer *answer,
                         struct error **error)
{
    uint64_t first, last;
    if (!answer->content_range || !content_range_parse(answer->content_range, &first, &last))
        return error_set(error, ERROR_INVALID, "the partial answer does not say which part it is");
    if (first != ranged->offset || last != ranged->offset + ranged->length - 1)
        return error_set(error, ERROR_INVALID,
                         "the answer is another part of the blob (%llu-%llu) than was asked for",
                         (unsigned long long)first, (unsigned long long)last);
    return 0;
}

/* Told once for each registry: everything still works, but slowly. */
static void tell_whole_blobs(struct request *request)
{
    struct registry_host *host = request->host;
    if (!host || host->whole_blobs_told) return;
    host->whole_blobs_told = true;
    log_warning("registry %s: it ignores ranges, so that blobs are read from their start; "
                "reads will be slow",
                request->registry);
}

int ranged_begin(struct ranged *ranged, struct request *request, uint64_t whole,
                 struct error **error)
{
    const struct answer *answer = &request->exchange.answer;
    uint64_t wanted = ranged->length;
    ranged->skip = 0;
    ranged->received = 0;
    if (answer->status == 206) {
        if (begin_partial(ranged, answer, error) < 0) return -1;
    } else if (answer->status == 200) {
        ranged->skip = ranged->offset;
        if (ranged->skip > (request->exchange.hurry_seconds ? LEAST_SKIP : ranged->skip_limit))
            return error_set(error, ERROR_INVALID,
                             "it ignores ranges, and these bytes are far into the blob");
        wanted = whole ? whole : ranged->offset + ranged->length;
        if (ranged->skip) tell_whole_blobs(request);
    } else {
        return error_set(error, ERROR_INVALID, "HTTP %ld instead of a part of the blob",
                         answer->status);
    }
    if (answer->content_length < 0) return 0;
    uint64_t length = (uint64_t)answer->content_length;
    bool exact = answer->status == 206 || whole;
    if (length < wanted || (exact && length > wanted))
        return error_set(error, ERROR_INVALID, "the answer has %llu bytes instead of %llu",
                         (unsigned long long)length, (unsigned long long)wanted);
    return 0;
}

void ranged_trim(const struct ranged *ranged, const uint8_t **data, size_t *length)
{
    size_t before = *length < ranged->skip ? *length : (size_t)ranged->skip;
    *data += before;
    *length -= before;
    if (*length > ranged->length) *length = (size_t)ranged->length;
}

bool ranged_advance(struct ranged *ranged, struct request *request, size_t length)
{
    size_t wanted = length;
    ranged->received += length;
    if (ranged->skip >= length) {
        ranged->skip -= length;
        wanted = 0;
    } else {
        wanted -= (size_t)ranged->skip;
        ranged->skip = 0;
    }
    if (wanted > ranged->length) wanted = (size_t)ranged->length;
    ranged->offset += wanted;
    ranged->length -= wanted;
    request->range_offset = ranged->offset;
    request->range_length = ranged->length;
    if (ranged->length > 0) return true;
    /* Reading to the end keeps the connection, where the end is here. */
    int64_t announced = request->exchange.answer.content_length;
    return announced >= 0 && (uint64_t)announced == ranged->received;
}

int ranged_end(const struct ranged *ranged, struct error **error)
{
    if (ranged->length == 0) return 0;
    return error_set(error, ERROR_UNREACHABLE, "the answer ended %llu bytes early",
                     (unsigned long long)ranged->length);
}
