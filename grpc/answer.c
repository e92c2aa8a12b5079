#include "base/clock.h"
#include "grpc/server-internal.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>

#define HEADER(name_text, value_text, value_length)                                           \
    {                                                                                         \
        (uint8_t *)(name_text), (uint8_t *)(value_text), sizeof(name_text) - 1, value_length, \
            NGHTTP2_NV_FLAG_NONE                                                              \
    }

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
    call->moved = clock_ms();
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

void grpc_call_answer(struct grpc_call *call)
{
    nghttp2_session *session = call->connection->session;
    struct grpc_server *server = call->server;
    pthread_mutex_lock(&server->lock);
    bool only_status = call->ended && call->output.length == 0;
    pthread_mutex_unlock(&server->lock);
    if (call->reset) return;
    call->moved = clock_ms();
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

void grpc_call_refuse(struct grpc_call *call, enum grpc_status status, const char *text)
{
    if (call->requested) return;
    call->requested = true;
    char *encoded = grpc_text_encode(text);
    pthread_mutex_lock(&call->server->lock);
    call->ended = true;
    call->status = status;
    call->text = encoded;
    pthread_mutex_unlock(&call->server->lock);
    grpc_call_answer(call);
}

void grpc_call_refuse_http(struct grpc_call *call, const char status[static 3])
{
    const nghttp2_nv header = HEADER(":status", status, 3);
    call->requested = call->answered = true;
    call->moved = clock_ms();
    if (nghttp2_submit_response(call->connection->session, call->stream, &header, 1, NULL) != 0)
        call->connection->ended = true;
}

void grpc_call_reset(struct grpc_call *call, uint32_t code)
{
    if (call->reset) return;
    call->reset = true;
    if (nghttp2_submit_rst_stream(call->connection->session, NGHTTP2_FLAG_NONE, call->stream,
                                  code) != 0)
        call->connection->ended = true;
}
