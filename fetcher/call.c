#include "fetcher/call-internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/reference-internal.h"

/* Altogether, for a small answer, and more for each byte that may come: a server
 * that gives byte for byte must come to an end, too. */
#define TIMEOUT_MS       120000u
#define SLOWEST_BYTES_MS 32u

/* Drops what an attempt before has hashed. */
static void restart_digest(struct call *call)
{
    if (call->expected) digest_stream_finish(call->hash, &call->digest);
}

static int begin(struct request *request, struct error **error)
{
    struct call *call = container_of(request, struct call, request);
    const struct answer *answer = &request->exchange.answer;
    call->body.length = 0;
    restart_digest(call);
    bool has_body = strcmp(request->method, "HEAD") != 0;
    if (has_body && answer->content_length > 0 && (uint64_t)answer->content_length > call->limit) {
        request->hopeless = true;
        return error_set(error, ERROR_INVALID, "the answer is larger than %zu bytes", call->limit);
    }
    /* One piece instead of a growing one; where that is not to be had, the bytes will tell. */
    if (has_body && answer->content_length > 0)
        (void)!buffer_reserve(&call->body, (size_t)answer->content_length);
    if (has_body && strcmp(request->method, "GET") == 0 && answer->status != 200)
        return error_set(error, ERROR_INVALID, "HTTP %ld instead of 200", answer->status);
    return 0;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct call *call = container_of(request, struct call, request);
    if (length > call->limit - call->body.length) {
        error_set(error, ERROR_INVALID, "the answer is larger than %zu bytes", call->limit);
        return TAKEN_TOO_MUCH;
    }
    if (call->expected) digest_stream_update(call->hash, data, length);
    if (buffer_append(&call->body, data, length) == 0) return TAKEN;
    error_set_memory(error);
    return TAKEN_TOO_MUCH;
}

/* A body that is not what was asked for may come from a damaged cache in between: worth another
 * attempt. */
static int end(struct request *request, struct error **error)
{
    struct call *call = container_of(request, struct call, request);
    if (!call->expected) return 0;
    digest_stream_finish(call->hash, &call->digest);
    if (digest_equal(&call->digest, call->expected)) return 0;
    char text[DIGEST_TEXT_SIZE];
    return error_set(error, ERROR_INVALID, "the answer has another digest, %s",
                     digest_format(&call->digest, text));
}

static void done(struct request *request, struct error *error)
{
    struct call *call = container_of(request, struct call, request);
    pthread_mutex_lock(&call->lock);
    call->error = error;
    call->done = true;
    pthread_cond_signal(&call->changed);
    pthread_mutex_unlock(&call->lock);
}

static const struct request_operations operations = {
    .begin = begin, .bytes = take_bytes, .end = end, .done = done
};

int repository_check(const struct repository *repository, struct error **error)
{
    if (!registry_name_is_valid(repository->registry))
        return error_set(error, ERROR_INVALID, "the registry '%s' is not a host[:port]",
                         repository->registry);
    if (!repository_name_is_valid(repository->name))
        return error_set(error, ERROR_INVALID, "the repository '%s' is not valid",
                         repository->name);
    return 0;
}

static void init(struct call *call, struct registry_client *client,
                 const struct repository *repository, char *what)
{
    struct request *request = &call->request;
    *call = (struct call){ .limit = REGISTRY_MANIFEST_LIMIT };
    pthread_mutex_init(&call->lock, NULL);
    pthread_cond_init(&call->changed, NULL);
    request->client = client;
    request->operations = &operations;
    request->method = "GET";
    request->access = ACCESS_PULL;
    request->needed = HOST_PULL;
    request->what = what;
    request->registry = strdup(repository->registry);
    request->repository = strdup(repository->name);
}

static int check_memory(const struct request *request, struct error **error)
{
    if (request->what && (request->url || request->path) && request->registry &&
        request->repository)
        return 0;
    return error_set_memory(error);
}

int call_prepare_url(struct call *call, struct registry_client *client,
                     const struct repository *repository, char *what, char *url,
                     struct error **error)
{
    init(call, client, repository, what);
    call->request.url = url;
    return check_memory(&call->request, error);
}

int call_prepare(struct call *call, struct registry_client *client,
                 const struct repository *repository, char *what, struct error **error,
                 const char *path, ...)
{
    char *rest = NULL;
    init(call, client, repository, what);
    if (repository_check(repository, error) < 0) return -1;
    va_list arguments;
    va_start(arguments, path);
    if (vasprintf(&rest, path, arguments) < 0) rest = NULL;
    va_end(arguments);
    if (rest) call->request.path = format_text("%s/%s", repository->name, rest);
    free(rest);
    return check_memory(&call->request, error);
}

int call_run(struct call *call, struct error **error)
{
    struct request *request = &call->request;
    if (call->expected && !(call->hash = digest_stream_new())) return error_set_memory(error);
    uint64_t bytes = (uint64_t)call->limit + request->body_length;
    uint64_t timeout = TIMEOUT_MS + bytes / SLOWEST_BYTES_MS;
    if (!request->timeout_ms) request->timeout_ms = timeout > INT32_MAX ? INT32_MAX : timeout;
    request_submit(request);
    pthread_mutex_lock(&call->lock);
    while (!call->done)
        pthread_cond_wait(&call->changed, &call->lock);
    pthread_mutex_unlock(&call->lock);
    struct error *failure = call->error;
    call->error = NULL;
    return failure ? error_move(error, failure) : 0;
}

void call_release(struct call *call)
{
    request_release(&call->request);
    buffer_free(&call->body);
    digest_stream_free(call->hash);
    error_free(call->error);
    pthread_cond_destroy(&call->changed);
    pthread_mutex_destroy(&call->lock);
}
