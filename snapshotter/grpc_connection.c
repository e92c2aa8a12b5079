#include "snapshotter/grpc_server-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

enum { PATH_LIMIT = 1024, READ_SIZE = 65536 };

struct grpc_connection {
    struct grpc_server *server;
    LIST_ENTRY(grpc_connection) of_server;
    LIST_HEAD(, grpc_call) calls;
    nghttp2_session *session;
    int descriptor;
    const uint8_t *unsent; /* of the session, until it is asked for more */
    size_t unsent_length;
    uint64_t opened, moved; /* grpc_clock(): its begin; when bytes last went out */
    uint32_t watched;       /* events */
    bool greeted, ended;
};

#define HEADER(name_text, value_text, value_length)                                           \
    {                                                                                         \
        (uint8_t *)(name_text), (uint8_t *)(value_text), sizeof(name_text) - 1, value_length, \
            NGHTTP2_NV_FLAG_NONE                                                              \
    }

/* ---- what calls say ---- */

struct status_headers {
    char number[4];
    nghttp2_nv headers[2];
    size_t count;
};

/* Of a call that has ended; what it points to lives as long as the call. */
static void make_status_headers(const struct grpc_call *call, struct status_headers *ret)
{
    int length = snprintf(ret->number, sizeof ret->number, "%u", (unsigned)call->status & 0xff);
    ret->headers[0] = (nghttp2_nv)HEADER("grpc-status", ret->number, (size_t)length);
    ret->count = 1;
    if (call->text)
        ret->headers[ret->count++] =
            (nghttp2_nv)HEADER("grpc-message", call->text, strlen(call->text));
}

static ssize_t give_output(nghttp2_session *session, int32_t stream, uint8_t *data, size_t length,
                           uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)user;
    struct grpc_call *call = source->ptr;
    struct grpc_server *server = call->server;
    struct status_headers status = { 0 };
    call->moved = grpc_clock();
    pthread_mutex_lock(&server->lock);
    size_t left = call->output.length - call->output_sent;
    bool over = call->ended && left <= length;
    size_t taken = left < length ? left : length;
    if (taken > 0) memcpy(data, call->output.data + call->output_sent, taken);
    call->output_sent += taken;
    pthread_cond_broadcast(&server->output_sent);
    pthread_mutex_unlock(&server->lock);
    if (!over) return taken > 0 ? (ssize_t)taken : NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    make_status_headers(call, &status);
    if (nghttp2_submit_trailer(session, stream, status.headers, status.count) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return (ssize_t)taken;
}

void grpc_connection_answer(struct grpc_call *call)
{
    nghttp2_session *session = call->connection->session;
    struct grpc_server *server = call->server;
    pthread_mutex_lock(&server->lock);
    bool only_status = call->ended && call->output.length == 0;
    pthread_mutex_unlock(&server->lock);
    if (call->reset) return;
    call->moved = grpc_clock();
    if (call->answered) {
        nghttp2_session_resume_data(session, call->stream);
        return;
    }
    nghttp2_nv headers[5] = {
        HEADER(":status", "200", 3),
        HEADER("content-type", "application/grpc", 16),
        HEADER("grpc-accept-encoding", "identity", 8),
    };
    size_t count = 3;
    const nghttp2_data_provider provider = { .source.ptr = call, .read_callback = give_output };
    struct status_headers status = { 0 };
    if (only_status) {
        make_status_headers(call, &status);
        for (size_t i = 0; i < status.count; i++)
            headers[count++] = status.headers[i];
    }
    call->answered = true;
    if (nghttp2_submit_response(session, call->stream, headers, count,
                                only_status ? NULL : &provider) != 0)
        call->connection->ended = true;
}

/* Ends a call that no worker has. */
static void refuse(struct grpc_call *call, enum grpc_status status, const char *text)
{
    if (call->requested) return;
    call->requested = true;
    char *encoded = grpc_text_encode(text);
    pthread_mutex_lock(&call->server->lock);
    call->ended = true;
    call->status = status;
    call->text = encoded;
    pthread_mutex_unlock(&call->server->lock);
    grpc_connection_answer(call);
}

/* Somebody speaks HTTP, but no gRPC. */
static void refuse_http(struct grpc_call *call, const char status[static 3])
{
    const nghttp2_nv header = HEADER(":status", status, 3);
    call->requested = call->answered = true;
    call->moved = grpc_clock();
    if (nghttp2_submit_response(call->connection->session, call->stream, &header, 1, NULL) != 0)
        call->connection->ended = true;
}

static void reset(struct grpc_call *call, uint32_t code)
{
    if (call->reset) return;
    call->reset = true;
    if (nghttp2_submit_rst_stream(call->connection->session, NGHTTP2_FLAG_NONE, call->stream,
                                  code) != 0)
        call->connection->ended = true;
}

/* ---- what clients ask ---- */

static const struct grpc_method *find_method(const struct grpc_server *server, const char *path)
{
    const struct grpc_method *other = NULL;
    for (size_t i = 0; i < server->method_count; i++) {
        const struct grpc_method *method = &server->methods[i];
        if (!method->path)
            other = method;
        else if (strcmp(method->path, path) == 0)
            return method;
    }
    return other;
}

static bool text_is(const uint8_t *text, size_t length, const char *what)
{
    return length == strlen(what) && memcmp(text, what, length) == 0;
}

static bool is_grpc_type(const uint8_t *value, size_t length)
{
    static const char type[] = "application/grpc";
    if (length < sizeof type - 1 || memcmp(value, type, sizeof type - 1) != 0) return false;
    return length == sizeof type - 1 || value[sizeof type - 1] == '+' ||
           value[sizeof type - 1] == ';';
}

static void take_path(struct grpc_call *call, const uint8_t *value, size_t length)
{
    if (call->path || length > PATH_LIMIT || length == 0 || value[0] != '/' ||
        memchr(value, 0, length)) {
        call->bad = true;
        return;
    }
    call->path = strndup((const char *)value, length);
    call->bad |= !call->path;
}

static void take_timeout(struct grpc_call *call, const uint8_t *value, size_t length)
{
    char text[GRPC_TIMEOUT_LENGTH] = "";
    uint64_t milliseconds = 0;
    if (length < sizeof text) memcpy(text, value, length);
    if (length < sizeof text && grpc_timeout_parse(text, &milliseconds))
        call->deadline = call->opened + milliseconds;
    else
        call->bad = true;
}

/* Headers that are about how the call comes, not what it says. */
static bool is_transport(const uint8_t *name, size_t length)
{
    static const char *const names[] = { "te",         "user-agent",        "content-length",
                                         "connection", "transfer-encoding", "host" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (text_is(name, length, names[i])) return true;
    }
    return length > 5 && memcmp(name, "grpc-", 5) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user)
{
    (void)flags;
    (void)user;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!call || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    if (text_is(name, name_length, ":method"))
        call->post = text_is(value, value_length, "POST");
    else if (text_is(name, name_length, ":path"))
        take_path(call, value, value_length);
    else if (text_is(name, name_length, "content-type"))
        call->grpc = is_grpc_type(value, value_length);
    else if (text_is(name, name_length, "grpc-timeout"))
        take_timeout(call, value, value_length);
    else if (text_is(name, name_length, "grpc-encoding"))
        call->encoded = !text_is(value, value_length, "identity");
    else if (name_length > 0 && name[0] != ':' && !is_transport(name, name_length))
        call->bad |= grpc_metadata_add(&call->metadata, name, name_length, value, value_length) < 0;
    return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct grpc_connection *connection = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct grpc_call *call = grpc_call_new(connection, connection->server, frame->hd.stream_id);
    if (!call) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    LIST_INSERT_HEAD(&connection->calls, call, of_connection);
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
    return 0;
}

static void headers_are_complete(struct grpc_call *call)
{
    if (!call->post) {
        refuse_http(call, "405");
    } else if (!call->grpc) {
        refuse_http(call, "415");
    } else if (call->bad || !call->path) {
        refuse(call, GRPC_INTERNAL, "the headers are malformed, or too many");
    } else {
        call->method = find_method(call->server, call->path);
        if (!call->method) refuse(call, GRPC_UNIMPLEMENTED, "there is no such method");
    }
}

static void refuse_message(struct grpc_call *call)
{
    switch (call->request.fault) {
    case GRPC_MESSAGE_COMPRESSED:
        refuse(call, call->encoded ? GRPC_UNIMPLEMENTED : GRPC_INTERNAL,
               "compressed messages are not supported");
        break;
    case GRPC_MESSAGE_TOO_LONG:
        refuse(call, GRPC_RESOURCE_EXHAUSTED, "the message has more than 4 MiB");
        break;
    case GRPC_MESSAGE_NO_MEMORY:
        refuse(call, GRPC_RESOURCE_EXHAUSTED, "memory is short");
        break;
    case GRPC_MESSAGE_SECOND:
    case GRPC_MESSAGE_MISSING:
        refuse(call, GRPC_UNIMPLEMENTED, "the method takes exactly one message");
        break;
    case GRPC_MESSAGE_CUT:
    case GRPC_MESSAGE_BAD_FLAG:
    case GRPC_MESSAGE_FINE:
        refuse(call, GRPC_INTERNAL, "the message is cut short or malformed");
        break;
    }
    buffer_free(&call->request.message);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                   size_t length, void *user)
{
    (void)flags;
    (void)user;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (!call || call->requested) return 0;
    if (atomic_fetch_add(&call->server->request_memory, length) + length > REQUEST_MEMORY_LIMIT)
        call->request.fault = GRPC_MESSAGE_NO_MEMORY;
    call->counted += length;
    if (grpc_message_add(&call->request, data, length) != GRPC_MESSAGE_FINE) refuse_message(call);
    return 0;
}

static void request_is_complete(struct grpc_call *call)
{
    if (call->requested) return;
    if (grpc_message_end(&call->request) != GRPC_MESSAGE_FINE) {
        refuse_message(call);
        return;
    }
    atomic_fetch_add(&call->references, 1);
    if (grpc_workers_add(call->server, call) == 0) {
        call->requested = true;
        return;
    }
    grpc_call_release(call);
    refuse(call, GRPC_UNAVAILABLE, "too many calls wait, or the server is being stopped");
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct grpc_connection *connection = user;
    if (frame->hd.type == NGHTTP2_SETTINGS) connection->greeted = true;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!call) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        headers_are_complete(call);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) request_is_complete(call);
    return 0;
}

/* An answer may be complete before the request is: then nobody wants the rest of it. */
static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (call && nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id) == 0)
        reset(call, NGHTTP2_NO_ERROR);
    return 0;
}

static void forget_call(struct grpc_call *call)
{
    LIST_REMOVE(call, of_connection);
    grpc_call_abandon(call);
    grpc_call_release(call);
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    (void)code;
    (void)user;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call) forget_call(call);
    return 0;
}

/* ---- the connection ---- */

static int make_session(struct grpc_connection *connection)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int result = -1;
    if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_sent);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
        /* Some clients name the socket as the authority, with slashes, which nghttp2 takes for an
         * error; of what it checks else, on_header() looks at what matters here. */
        nghttp2_option_set_no_http_messaging(option, 1);
        result = nghttp2_session_server_new2(&connection->session, callbacks, connection, option);
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    if (result != 0) return -1;
    const nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAM_LIMIT },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_METADATA_BYTES },
    };
    return nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings,
                                   sizeof settings / sizeof *settings);
}

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
    connection->opened = connection->moved = grpc_clock();
    LIST_INSERT_HEAD(&server->connections, connection, of_server);
    server->connection_count++;
    if (make_session(connection) == 0 && watch(connection, EPOLLIN) == 0) return 0;
    grpc_connection_close(connection);
    return -1;
}

void grpc_connection_close(struct grpc_connection *connection)
{
    struct grpc_call *call;
    while ((call = LIST_FIRST(&connection->calls)))
        forget_call(call);
    nghttp2_session_del(connection->session);
    close(connection->descriptor);
    LIST_REMOVE(connection, of_server);
    connection->server->connection_count--;
    free(connection);
}

struct grpc_connection *grpc_connection_after(const struct grpc_connection *connection)
{
    return LIST_NEXT(connection, of_server);
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
            connection->moved = grpc_clock();
        }
        ssize_t sent = send(connection->descriptor, connection->unsent, connection->unsent_length,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) {
            connection->ended = true;
            return;
        }
        connection->moved = grpc_clock();
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
            refuse(call, GRPC_DEADLINE_EXCEEDED, "the request did not come to its end");
        else if (has_output(call) && is_over(call->moved, UNREAD_SECONDS, now, next))
            reset(call, NGHTTP2_CANCEL);
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

bool grpc_connection_is_busy(const struct grpc_connection *connection)
{
    return connection->unsent_length > 0 || !LIST_EMPTY(&connection->calls);
}
