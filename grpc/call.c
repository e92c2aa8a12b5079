#include "base/clock.h"
#include "grpc/server-internal.h"

#include <stdlib.h>
#include <string.h>

struct grpc_call *grpc_call_new(struct grpc_connection *connection, struct grpc_server *server,
                                int32_t stream)
{
    struct grpc_call *call = calloc(1, sizeof *call);
    if (!call) return NULL;
    call->server = server;
    atomic_init(&call->references, 1);
    call->connection = connection;
    call->stream = stream;
    call->opened = clock_ms();
    call->deadline = UINT64_MAX;
    call->request.limit = GRPC_MESSAGE_LIMIT;
    return call;
}

void grpc_call_release(struct grpc_call *call)
{
    if (atomic_fetch_sub(&call->references, 1) > 1) return;
    atomic_fetch_sub(&call->server->request_memory, call->counted);
    atomic_fetch_sub(&call->server->answer_memory, call->output.length);
    grpc_metadata_free(&call->metadata);
    buffer_free(&call->request.message);
    buffer_free(&call->output);
    free(call->path);
    free(call->text);
    free(call);
}

void grpc_call_forget(struct grpc_call *call)
{
    struct grpc_server *server = call->server;
    LIST_REMOVE(call, of_connection);
    pthread_mutex_lock(&server->lock);
    call->cancelled = true;
    if (call->is_ready) STAILQ_REMOVE(&server->ready, call, grpc_call, ready);
    call->is_ready = false;
    pthread_cond_broadcast(&server->output_sent);
    pthread_mutex_unlock(&server->lock);
    grpc_call_release(call);
}

const char *grpc_call_path(const struct grpc_call *call)
{
    return call->path;
}

const struct buffer *grpc_call_request(const struct grpc_call *call)
{
    return &call->request.message;
}

const struct grpc_metadata *grpc_call_metadata(const struct grpc_call *call)
{
    return &call->metadata;
}

uint64_t grpc_call_milliseconds_left(const struct grpc_call *call)
{
    if (call->deadline == UINT64_MAX) return UINT64_MAX;
    uint64_t now = clock_ms();
    return now < call->deadline ? call->deadline - now : 0;
}

bool grpc_call_cancelled(const struct grpc_call *call)
{
    if (grpc_call_milliseconds_left(call) == 0) return true;
    pthread_mutex_lock(&call->server->lock);
    bool cancelled = call->cancelled || call->server->draining;
    pthread_mutex_unlock(&call->server->lock);
    return cancelled;
}

/* With the lock held: the connection's thread has something to do for the call. */
static void make_ready(struct grpc_call *call)
{
    struct grpc_server *server = call->server;
    if (call->is_ready || call->cancelled) return;
    call->is_ready = true;
    STAILQ_INSERT_TAIL(&server->ready, call, ready);
    grpc_server_wake(server);
}

/* What went out makes room for what comes. */
static void drop_sent(struct grpc_call *call)
{
    if (call->output_sent == 0) return;
    memmove(call->output.data, call->output.data + call->output_sent,
            call->output.length - call->output_sent);
    atomic_fetch_sub(&call->server->answer_memory, call->output_sent);
    call->output.length -= call->output_sent;
    call->output_sent = 0;
}

static bool is_full(const struct grpc_call *call)
{
    return call->output.length - call->output_sent > OUTPUT_LIMIT;
}

int grpc_call_send(struct grpc_call *call, const void *data, size_t length)
{
    struct grpc_server *server = call->server;
    int result = -1;
    pthread_mutex_lock(&server->lock);
    while (is_full(call) && !call->cancelled && !server->draining)
        pthread_cond_wait(&server->output_sent, &server->lock);
    if (!is_full(call) && !call->cancelled && !call->ended) {
        drop_sent(call);
        size_t before = call->output.length;
        result = grpc_message_append(&call->output, data, length);
        atomic_fetch_add(&server->answer_memory, call->output.length - before);
        if (result == 0) make_ready(call);
    }
    pthread_mutex_unlock(&server->lock);
    return result;
}

void grpc_call_end(struct grpc_call *call, enum grpc_status status, const char *message)
{
    char *text = message && *message ? grpc_text_encode(message) : NULL;
    struct grpc_server *server = call->server;
    pthread_mutex_lock(&server->lock);
    call->ended = true;
    call->status = status;
    call->text = text;
    make_ready(call);
    pthread_mutex_unlock(&server->lock);
    grpc_call_release(call);
}

void grpc_call_fail(struct grpc_call *call, struct error *error)
{
    grpc_call_end(call, grpc_status_of(error), error_message(error));
    error_free(error);
}
