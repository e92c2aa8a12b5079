#include "grpc/server-internal.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_LIMIT = 1024 };

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
    connection->called = true;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
    return 0;
}

static void headers_are_complete(struct grpc_call *call)
{
    if (!call->post) {
        grpc_call_refuse_http(call, "405");
    } else if (!call->grpc) {
        grpc_call_refuse_http(call, "415");
    } else if (call->bad || !call->path) {
        grpc_call_refuse(call, GRPC_INTERNAL, "the headers are malformed, or too many");
    } else {
        call->method = find_method(call->server, call->path);
        if (!call->method) grpc_call_refuse(call, GRPC_UNIMPLEMENTED, "there is no such method");
    }
}

static void refuse_message(struct grpc_call *call)
{
    switch (call->request.fault) {
    case GRPC_MESSAGE_COMPRESSED:
        grpc_call_refuse(call, call->encoded ? GRPC_UNIMPLEMENTED : GRPC_INTERNAL,
                         "compressed messages are not supported");
        break;
    case GRPC_MESSAGE_TOO_LONG:
        grpc_call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "the message has more than 4 MiB");
        break;
    case GRPC_MESSAGE_NO_MEMORY:
        grpc_call_refuse(call, GRPC_RESOURCE_EXHAUSTED, "memory is short");
        break;
    case GRPC_MESSAGE_SECOND:
    case GRPC_MESSAGE_MISSING:
        grpc_call_refuse(call, GRPC_UNIMPLEMENTED, "the method takes exactly one message");
        break;
    case GRPC_MESSAGE_CUT:
    case GRPC_MESSAGE_BAD_FLAG:
    case GRPC_MESSAGE_FINE:
        grpc_call_refuse(call, GRPC_INTERNAL, "the message is cut short or malformed");
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
    grpc_call_refuse(call, GRPC_UNAVAILABLE, "too many calls wait, or the server is being stopped");
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
        grpc_call_reset(call, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    (void)code;
    (void)user;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call) grpc_call_forget(call);
    return 0;
}

int grpc_session_make(struct grpc_connection *connection)
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
