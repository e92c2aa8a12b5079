/*
 * Fed: what a client sends after HTTP/2's greeting, piece by piece. The server has one method, and
 * no workers: a call that is in order is refused when it would begin.
 *
 * Holds: every call that begins is forgotten with its connection, and its memory is given back.
 */
#include <nghttp2/nghttp2.h>

#include "grpc/server-internal.h"
#include "tests/fuzz/fuzz.h"

/* The client's preface, and SETTINGS without any. */
static const uint8_t greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";

/* False: the session has ended. */
static bool feed(struct grpc_connection *connection, const uint8_t *data, size_t length)
{
    const uint8_t *sent;
    ssize_t count;
    if (nghttp2_session_mem_recv(connection->session, data, length) < 0) return false;
    do {
        count = nghttp2_session_mem_send(connection->session, &sent);
    } while (count > 0);
    return count == 0;
}

static void forget_calls(struct grpc_connection *connection)
{
    struct grpc_call *call;
    while ((call = LIST_FIRST(&connection->calls)))
        grpc_call_forget(call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    const struct grpc_method method = { .path = "/a/b" };
    struct grpc_server server = { .methods = &method, .method_count = 1, .wake = -1 };
    struct grpc_connection connection = { .server = &server };
    size_t piece = 1 + take_number(&data, &length, 1) * 4;
    STAILQ_INIT(&server.ready);
    grpc_workers_begin(&server.workers);
    server.workers.stopping = true;
    pthread_mutex_init(&server.lock, NULL);
    pthread_cond_init(&server.output_sent, NULL);
    EXPECT(grpc_session_make(&connection) == 0);
    bool open = feed(&connection, greeting, sizeof greeting);
    EXPECT(open);
    for (size_t i = 0; open && i < length; i += piece)
        open = feed(&connection, data + i, length - i < piece ? length - i : piece);
    forget_calls(&connection);
    nghttp2_session_del(connection.session);
    EXPECT(STAILQ_EMPTY(&server.ready) && server.request_memory == 0);
    grpc_workers_end(&server);
    pthread_mutex_destroy(&server.lock);
    pthread_cond_destroy(&server.output_sent);
    return 0;
}
