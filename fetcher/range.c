/* registry_fetch_range(): a run of a blob's bytes, for a callback. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fetcher/call-internal.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/ranged-internal.h"

/* Read and thrown away for the sake of one range, where a server gives whole blobs only. */
#define SKIP_LIMIT (64u << 20)

struct range {
    struct request request;
    struct ranged ranged;
    struct digest digest;
    struct buffer body; /* what has arrived, over all attempts; with `part` none of it */
    size_t length;
    range_part *part; /* or NULL */
    range_done *done;
    void *context;
    struct transfer_task task; /* gives `refused` where the arguments were wrong */
    struct error *refused;
};

static void release(struct range *range)
{
    request_release(&range->request);
    buffer_free(&range->body);
    free(range);
}

static int begin(struct request *request, struct error **error)
{
    struct range *range = container_of(request, struct range, request);
    if (ranged_begin(&range->ranged, request, 0, error) < 0) return -1;
    deliveries_note(&request->client->deliveries, request->host, &range->digest,
                    range->ranged.offset, range->ranged.length);
    return 0;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct range *range = container_of(request, struct range, request);
    size_t wanted = length;
    ranged_trim(&range->ranged, &data, &wanted);
    if (range->part) {
        if (wanted > 0) range->part(range->context, data, wanted);
        return ranged_advance(&range->ranged, request, length) ? TAKEN : TAKEN_ENOUGH;
    }
    if (!range->body.data && wanted > 0) {
        /* Exactly as much as was asked for: the callee keeps the memory. */
        range->body.data = malloc(range->length);
        range->body.capacity = range->body.data ? range->length : 0;
    }
    if (buffer_append(&range->body, data, wanted) < 0) {
        error_set_memory(error);
        return TAKEN_TOO_MUCH;
    }
    return ranged_advance(&range->ranged, request, length) ? TAKEN : TAKEN_ENOUGH;
}

static int end(struct request *request, struct error **error)
{
    struct range *range = container_of(request, struct range, request);
    return ranged_end(&range->ranged, error);
}

static void finished(struct request *request, struct error *error)
{
    struct range *range = container_of(request, struct range, request);
    range->done(range->context, error ? NULL : &range->body, error);
    release(range);
}

static const struct request_operations operations = {
    .begin = begin, .bytes = take_bytes, .end = end, .done = finished
};

static void refuse(struct transfer_task *task)
{
    struct range *range = container_of(task, struct range, task);
    range->done(range->context, NULL, range->refused);
    release(range);
}

static int prepare(struct range *range, const struct repository *repository,
                   const struct digest *digest, uint64_t offset, size_t length,
                   struct error **error)
{
    struct request *request = &range->request;
    char text[DIGEST_TEXT_SIZE];
    if (length == 0 || length > SIZE_MAX / 2 || offset > INT64_MAX - (uint64_t)length)
        return error_set(error, ERROR_INVALID, "get blob: no valid range: %zu bytes at %llu",
                         length, (unsigned long long)offset);
    if (repository_check(repository, error) < 0) return -1;
    digest_format(digest, text);
    request->operations = &operations;
    request->method = "GET";
    request->access = ACCESS_PULL;
    request->keep_redirect = true;
    range->ranged.skip_limit = SKIP_LIMIT;
    request->range_offset = range->ranged.offset = offset;
    request->range_length = range->ranged.length = length;
    request->registry = strdup(repository->registry);
    request->repository = strdup(repository->name);
    request->path = format_text("%s/blobs/%s", repository->name, text);
    request->needed = HOST_PULL;
    request->what = format_text("get bytes %llu-%llu of blob '%s@%s'", (unsigned long long)offset,
                                (unsigned long long)(offset + length - 1), repository->name, text);
    if (!request->registry || !request->repository || !request->path || !request->what)
        return error_set_memory(error);
    return 0;
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
    range->request.client = client;
    range->request.timeout_ms = time.timeout_ms;
    range->request.retry_ms = time.retry_ms;
    range->length = length;
    range->digest = *digest;
    range->part = part;
    range->done = done;
    range->context = context;
    range->task.run = refuse;
    if (prepare(range, repository, digest, offset, length, &range->refused) < 0)
        transfer_post(client->thread, &range->task);
    else
        request_submit(&range->request);
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
