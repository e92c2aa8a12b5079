#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "snapshotter/metrics.h"

#define CONNECTIONS_MAX    16u
#define CONNECTION_MEMORY  (16u << 10)
#define CONNECTION_SECONDS 10u
#define AGAIN_MS           1000u
#define PROMETHEUS_MEDIA   "text/plain; version=0.0.4; charset=utf-8"
#define PLAIN_MEDIA        "text/plain; charset=utf-8"

struct metrics_listener {
    struct metrics_source source;
    char *address;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct MHD_Daemon *daemon; /* NULL: it does not listen yet */
    char *problem;             /* why, or NULL */
    bool stopping;
    pthread_t again; /* tries until it listens */
    bool again_runs;
};

/* ---- answers ---- */

/* Copies the text. */
static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *media,
                             void *text, size_t length)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length, text, MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, media);
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_line(struct MHD_Connection *connection, unsigned code,
                                  const char *line)
{
    cleanup_free char *text = format_text("%s\n", line);
    return text ? reply(connection, code, PLAIN_MEDIA, text, strlen(text)) : MHD_NO;
}

static enum MHD_Result reply_metrics(const struct metrics_listener *listener,
                                     struct MHD_Connection *connection)
{
    cleanup_buffer struct buffer text = { 0 };
    cleanup_json json_t *status = listener->source.status(listener->source.context);
    if (!status || metrics_format(status, listener->source.images, &text) < 0)
        return reply_line(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "there is no status now");
    return reply(connection, MHD_HTTP_OK, PROMETHEUS_MEDIA, text.data, text.length);
}

static enum MHD_Result reply_health(const struct metrics_listener *listener,
                                    struct MHD_Connection *connection)
{
    cleanup_free char *reason = listener->source.unhealthy(listener->source.context);
    return reason ? reply_line(connection, MHD_HTTP_SERVICE_UNAVAILABLE, reason)
                  : reply_line(connection, MHD_HTTP_OK, "ok");
}

/* MHD_AccessHandlerCallback. A body is not wanted, and makes the request end here. */
static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *body,
                              size_t *body_length, void **state)
{
    const struct metrics_listener *listener = context;
    (void)version;
    (void)body;
    (void)state;
    if (*body_length > 0) return MHD_NO;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply_line(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET");
    if (strcmp(path, "/metrics") == 0) return reply_metrics(listener, connection);
    if (strcmp(path, "/healthz") == 0) return reply_health(listener, connection);
    return reply_line(connection, MHD_HTTP_NOT_FOUND, "there are /metrics and /healthz");
}

/* ---- the socket ---- */

/* getaddrinfo() takes larger numbers, and what is left of them in 16 bits. */
static bool is_port(const char *text)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && port >= 1 && port <= 65535;
}

/* Numbers only: to look a name up could take minutes, at a start that must not wait. */
static struct addrinfo *resolve(const char *address, struct error **error)
{
    const char *colon = strrchr(address, ':');
    if (colon && is_port(colon + 1)) {
        size_t length = (size_t)(colon - address);
        bool bracketed = length >= 2 && address[0] == '[' && address[length - 1] == ']';
        cleanup_free char *host = strndup(address + bracketed, bracketed ? length - 2 : length);
        struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                  .ai_socktype = SOCK_STREAM,
                                  .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV };
        struct addrinfo *found;
        if (!host) {
            error_set_memory(error);
            return NULL;
        }
        if (getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found) == 0) return found;
    }
    error_set(error, ERROR_INVALID, "metrics address '%s' is no address", address);
    error_hint(error, "write it like 127.0.0.1:9780, [::1]:9780 or :9780");
    return NULL;
}

int metrics_address_check(const char *address, struct error **error)
{
    struct addrinfo *found = resolve(address, error);
    if (!found) return -1;
    freeaddrinfo(found);
    return 0;
}

static int listen_on(const char *address, struct error **error)
{
    struct addrinfo *found = resolve(address, error);
    if (!found) return -1;
    int one = 1;
    int descriptor = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor >= 0) setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (descriptor < 0 || bind(descriptor, found->ai_addr, found->ai_addrlen) < 0 ||
        listen(descriptor, (int)CONNECTIONS_MAX) < 0) {
        error_set_errno(error, errno, "listen for metrics on %s", address);
        if (descriptor >= 0) close(descriptor);
        descriptor = -1;
    }
    freeaddrinfo(found);
    return descriptor;
}

static int listen_once(struct metrics_listener *listener, struct error **error)
{
    cleanup_close int descriptor = listen_on(listener->address, error);
    if (descriptor < 0) return -1;
    listener->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer, listener,
        MHD_OPTION_LISTEN_SOCKET, descriptor, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_TIMEOUT, CONNECTION_SECONDS, MHD_OPTION_END);
    if (!listener->daemon)
        return error_set(error, ERROR_SYSTEM, "listen for metrics on %s: no thread or memory",
                         listener->address);
    (void)take_descriptor(&descriptor);
    return 0;
}

/* ---- until it listens: with the lock ---- */

/* What was told already is not told each time. */
static void note_problem(struct metrics_listener *listener, const struct error *reason)
{
    const char *text = error_message(reason);
    if (listener->problem && strcmp(listener->problem, text) == 0) return;
    free(listener->problem);
    listener->problem = strdup(text);
    log_error("%s; there are no metrics and no health until that works", text);
}

static bool try_once(struct metrics_listener *listener)
{
    cleanup_error struct error *reason = NULL;
    if (listen_once(listener, &reason) < 0) {
        note_problem(listener, reason);
        return false;
    }
    if (listener->problem) log_info("metrics are told on %s now", listener->address);
    free(take_pointer(&listener->problem));
    return true;
}

static void *try_again(void *argument)
{
    struct metrics_listener *listener = argument;
    pthread_mutex_lock(&listener->lock);
    do {
        uint64_t until = clock_ms() + AGAIN_MS;
        while (!listener->stopping && clock_ms() < until)
            clock_wait(&listener->changed, &listener->lock, until);
    } while (!listener->stopping && !try_once(listener));
    pthread_mutex_unlock(&listener->lock);
    return NULL;
}

/* ---- start and end ---- */

static int start(struct metrics_listener *listener, struct error **error)
{
    pthread_mutex_lock(&listener->lock);
    bool listens = try_once(listener);
    pthread_mutex_unlock(&listener->lock);
    if (listens) return 0;
    if (thread_start(&listener->again, "sluice-metrics", try_again, listener, error) < 0) return -1;
    listener->again_runs = true;
    return 0;
}

int metrics_listener_start(struct metrics_listener **ret, const char *address,
                           const struct metrics_source *source, struct error **error)
{
    if (metrics_address_check(address, error) < 0) return -1;
    struct metrics_listener *listener = calloc(1, sizeof *listener);
    if (!listener) return error_set_memory(error);
    listener->source = *source;
    pthread_mutex_init(&listener->lock, NULL);
    clock_condition_init(&listener->changed);
    *ret = listener;
    listener->address = strdup(address);
    int result = listener->address ? start(listener, error) : error_set_memory(error);
    if (result == 0) return 0;
    *ret = NULL;
    metrics_listener_stop(listener);
    return -1;
}

char *metrics_listener_problem(struct metrics_listener *listener)
{
    if (!listener) return NULL;
    pthread_mutex_lock(&listener->lock);
    char *text = listener->problem ? strdup(listener->problem) : NULL;
    pthread_mutex_unlock(&listener->lock);
    return text;
}

void metrics_listener_stop(struct metrics_listener *listener)
{
    if (!listener) return;
    pthread_mutex_lock(&listener->lock);
    listener->stopping = true;
    pthread_cond_signal(&listener->changed);
    pthread_mutex_unlock(&listener->lock);
    if (listener->again_runs) pthread_join(listener->again, NULL);
    if (listener->daemon) MHD_stop_daemon(listener->daemon);
    pthread_cond_destroy(&listener->changed);
    pthread_mutex_destroy(&listener->lock);
    free(listener->problem);
    free(listener->address);
    free(listener);
}
