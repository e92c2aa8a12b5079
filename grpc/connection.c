#include "grpc/server-internal.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { READ_SIZE = 65536 };

static int watch(struct grpc_connection *connection, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = connection };
    if (connection->watched == events) return 0;
    int how = connection->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    connection->watched = events;
    return epoll_ctl(connection->server->poll, how, connection->descriptor, &event);
}

int grpc_connection_open(struct grpc_server *server, int descriptor)
{
    struct grpc_connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        close(descriptor);
        return -1;
    }
    connection->server = server;
    connection->descriptor = descriptor;
    connection->opened = connection->moved = clock_ms();
    LIST_INSERT_HEAD(&server->connections, connection, of_server);
    server->connection_count++;
    if (grpc_session_make(connection) == 0 && watch(connection, EPOLLIN) == 0) return 0;
    grpc_connection_close(connection);
    return -1;
}

void grpc_connection_close(struct grpc_connection *connection)
{
    struct grpc_call *call;
    while ((call = LIST_FIRST(&connection->calls)))
        grpc_call_forget(call);
    nghttp2_session_del(connection->session);
    close(connection->descriptor);
    LIST_REMOVE(connection, of_server);
    connection->server->connection_count--;
    free(connection);
}

void grpc_connection_read(struct grpc_connection *connection)
{
    uint8_t bytes[READ_SIZE];
    if (connection->ended || connection->unsent_length > 0) return;
    ssize_t length = recv(connection->descriptor, bytes, sizeof bytes, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) {
        connection->ended = true;
        return;
    }
    ssize_t taken = nghttp2_session_mem_recv(connection->session, bytes, (size_t)length);
    if (taken < 0) {
        log_debug("gRPC client: %s", nghttp2_strerror((int)taken));
        connection->ended = true;
    }
}

/* Until the socket takes no more. */
static void write_output(struct grpc_connection *connection)
{
    while (!connection->ended) {
        if (connection->unsent_length == 0) {
            ssize_t made = nghttp2_session_mem_send(connection->session, &connection->unsent);
            if (made < 0) connection->ended = true;
            if (made <= 0) return;
            connection->unsent_length = (size_t)made;
            connection->moved = clock_ms();
        }
        ssize_t sent = send(connection->descriptor, connection->unsent, connection->unsent_length,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) {
            connection->ended = true;
            return;
        }
        connection->moved = clock_ms();
        connection->unsent += sent;
        connection->unsent_length -= (size_t)sent;
    }
}

/* True when `since` is too long ago; else lowers `next` to when it will be. */
static bool is_over(uint64_t since, uint64_t seconds, uint64_t now, uint64_t *next)
{
    uint64_t end = since + seconds * 1000;
    if (now >= end) return true;
    if (end < *next) *next = end;
    return false;
}

static bool has_output(struct grpc_call *call)
{
    pthread_mutex_lock(&call->server->lock);
    bool has = call->answered && (call->ended || call->output.length > call->output_sent);
    pthread_mutex_unlock(&call->server->lock);
    return has;
}

static void give_up_late(struct grpc_connection *connection, uint64_t now, uint64_t *next)
{
    struct grpc_call *call;
    if (!connection->greeted && is_over(connection->opened, REQUEST_SECONDS, now, next))
        connection->ended = true;
    if (connection->unsent_length > 0 && is_over(connection->moved, UNREAD_SECONDS, now, next))
        connection->ended = true;
    LIST_FOREACH(call, &connection->calls, of_connection)
    {
        if (!call->requested && is_over(call->opened, REQUEST_SECONDS, now, next))
            grpc_call_refuse(call, GRPC_DEADLINE_EXCEEDED, "the request did not come to its end");
        else if (has_output(call) && is_over(call->moved, UNREAD_SECONDS, now, next))
            grpc_call_reset(call, NGHTTP2_CANCEL);
    }
}

bool grpc_connection_serve(struct grpc_connection *connection, uint64_t now, uint64_t *next)
{
    give_up_late(connection, now, next);
    write_output(connection);
    if (connection->ended) return false;
    if (connection->unsent_length > 0) {
        is_over(connection->moved, UNREAD_SECONDS, now, next);
        /* Who does not read is not listened to, so that answers cannot pile up. */
        return watch(connection, EPOLLOUT) == 0;
    }
    if (!nghttp2_session_want_read(connection->session) &&
        !nghttp2_session_want_write(connection->session))
        return false;
    return watch(connection, EPOLLIN) == 0;
}

void grpc_connection_drain(struct grpc_connection *connection)
{
    int32_t last = nghttp2_session_get_last_proc_stream_id(connection->session);
    if (nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL,
                              0) != 0)
        connection->ended = true;
}

size_t grpc_connection_memory(const struct grpc_connection *connection)
{
    const struct grpc_call *call;
    size_t memory = 0;
    pthread_mutex_lock(&connection->server->lock);
    LIST_FOREACH(call, &connection->calls, of_connection)
    memory += call->output.length;
    pthread_mutex_unlock(&connection->server->lock);
    return memory;
}

bool grpc_connection_is_busy(const struct grpc_connection *connection)
{
    return connection->unsent_length > 0 || !LIST_EMPTY(&connection->calls);
}
