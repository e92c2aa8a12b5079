#include "tests/unit/grpc_place.h"
#include "tests/unit/http2_frames.h"

#include "grpc/client.h"

/* Another client is served as if nothing were. */
static void expect_service(const struct grpc_place *place)
{
    struct grpc_client *client;
    struct grpc_answer answer;
    struct error *error = NULL;
    const struct grpc_request request = {
        .path = "/test.Test/Echo", .message = "x", .length = 1, .timeout_ms = 20000
    };
    assert_int_equal(grpc_client_new(&client, place->path, NULL), 0);
    if (grpc_client_call(client, &request, &answer, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_int_equal(answer.message.length, 1);
    grpc_answer_free(&answer);
    grpc_client_free(client);
}

static struct http2_peer greet(const struct grpc_place *place)
{
    struct http2_peer peer = http2_connect(place->path);
    struct buffer bytes = { 0 };
    buffer_append(&bytes, http2_greeting, HTTP2_GREETING_LENGTH);
    http2_send(&peer, &bytes);
    return peer;
}

static void expect_end(struct http2_peer *peer, uint32_t stream, int http_status, int grpc_status)
{
    struct http2_end end;
    assert_true(http2_read_end(peer, stream, &end));
    assert_int_equal(end.http_status, http_status);
    assert_int_equal(end.grpc_status, grpc_status);
}

static void expect_disconnection(struct http2_peer *peer)
{
    struct http2_end end;
    assert_false(http2_read_end(peer, 0x7fffffff, &end));
    http2_close(peer);
}

static void what_is_no_http2_is_dropped(void **state)
{
    const struct grpc_place *place = *state;
    static const char *const texts[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                         "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\x16\x03\x01\x02" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct http2_peer peer = http2_connect(place->path);
        struct buffer bytes = { 0 };
        buffer_append(&bytes, texts[i], strlen(texts[i]));
        buffer_append_zeros(&bytes, 100);
        http2_send(&peer, &bytes);
        expect_disconnection(&peer);
    }
    expect_service(place);
}

static void broken_frames_end_their_connection(void **state)
{
    const struct grpc_place *place = *state;
    static const uint8_t huge[] = { 0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1 };
    static const uint8_t data_of_nobody[] = { 0, 0, 1, DATA, 0, 0, 0, 0, 9, 'x' };
    static const uint8_t bad_settings[] = { 0, 0, 5, SETTINGS, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5 };
    static const uint8_t bad_hpack[] = { 0, 0, 2, HEADERS, 5, 0, 0, 0, 1, 0xff, 0xff };
    static const uint8_t ping_of_stream[] = {
        0, 0, 8, PING, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8
    };
    static const struct {
        const uint8_t *bytes;
        size_t length;
    } frames[] = { { huge, sizeof huge },
                   { data_of_nobody, sizeof data_of_nobody },
                   { bad_settings, sizeof bad_settings },
                   { bad_hpack, sizeof bad_hpack },
                   { ping_of_stream, sizeof ping_of_stream } };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct http2_peer peer = greet(place);
        struct buffer bytes = { 0 };
        buffer_append(&bytes, frames[i].bytes, frames[i].length);
        http2_send(&peer, &bytes);
        expect_disconnection(&peer);
    }
    expect_service(place);
}

/* Sends a call of these headers and an empty message. */
static void send_headers(struct http2_peer *peer, uint32_t stream, const struct buffer *headers)
{
    struct buffer bytes = { 0 };
    put_frame(&bytes, HEADERS, END_HEADERS, stream, headers->data, (uint32_t)headers->length);
    put_frame(&bytes, DATA, END_STREAM, stream, "\0\0\0\0\0", 5);
    http2_send(peer, &bytes);
}

static void headers_are_checked(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    static const struct {
        const char *headers[5][2];
        int http_status, grpc_status;
    } cases[] = {
        { { { ":method", "GET" }, { ":path", "/test.Test/Echo" } }, 405, -1 },
        { { { ":path", "/test.Test/Echo" } }, 405, -1 },
        { { { ":method", "POST" }, { ":path", "/test.Test/Echo" } }, 415, -1 },
        { { { ":method", "POST" }, { ":path", "/x" }, { "content-type", "text/html" } }, 415, -1 },
        { { { ":method", "POST" }, { ":path", "/x" }, { "content-type", "application/grpcx" } },
          415,
          -1 },
        { { { ":method", "POST" }, { "content-type", "application/grpc" } }, 200, GRPC_INTERNAL },
        { { { ":method", "POST" }, { ":path", "x" }, { "content-type", "application/grpc" } },
          200,
          GRPC_INTERNAL },
        { { { ":method", "POST" },
            { ":path", "/test.Test/Echo" },
            { "content-type", "application/grpc+proto" },
            { "grpc-timeout", "soon" } },
          200,
          GRPC_INTERNAL },
        { { { ":method", "POST" },
            { ":path", "/test.Test/Echo" },
            { "content-type", "application/grpc" },
            { "Upper", "case" } },
          200,
          GRPC_INTERNAL },
        { { { ":method", "POST" },
            { ":path", "/test.Test/Echo" },
            { "content-type", "application/grpc" },
            { "grpc-timeout", "0n" } },
          200,
          GRPC_DEADLINE_EXCEEDED },
        { { { ":method", "POST" },
            { ":path", "/test.Test/Echo" },
            { "content-type", "application/grpc+proto" } },
          200,
          GRPC_OK },
    };
    uint32_t stream = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++, stream += 2) {
        struct buffer headers = { 0 };
        for (size_t k = 0; k < 5 && cases[i].headers[k][0]; k++)
            put_header(&headers, cases[i].headers[k][0], cases[i].headers[k][1]);
        send_headers(&peer, stream, &headers);
        expect_end(&peer, stream, cases[i].http_status, cases[i].grpc_status);
        buffer_free(&headers);
    }
    http2_close(&peer);
}

static void too_many_headers_are_refused(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer headers = { 0 };
    put_call_headers(&headers, "/test.Test/Echo");
    for (int i = 0; i < 100; i++)
        put_header(&headers, "color", "blue");
    send_headers(&peer, 1, &headers);
    expect_end(&peer, 1, 200, GRPC_INTERNAL);
    buffer_free(&headers);
    http2_close(&peer);
}

static void messages_are_checked(void **state)
{
    static const struct {
        const char *bytes;
        uint32_t length;
        enum grpc_status status;
    } cases[] = {
        { "\0\0\0\0\1x", 6, GRPC_OK },
        { "", 0, GRPC_UNIMPLEMENTED },
        { "\0\0\0", 3, GRPC_INTERNAL },
        { "\0\0\0\0\2x", 6, GRPC_INTERNAL },
        { "\0\0\0\0\1xy", 7, GRPC_UNIMPLEMENTED },
        { "\1\0\0\0\1x", 6, GRPC_INTERNAL },
        { "\7\0\0\0\1x", 6, GRPC_INTERNAL },
        { "\0\xff\xff\xff\xff", 5, GRPC_RESOURCE_EXHAUSTED },
    };
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    uint32_t stream = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++, stream += 2) {
        struct buffer bytes = { 0 };
        put_call(&bytes, stream, "/test.Test/Echo", cases[i].bytes, cases[i].length);
        http2_send(&peer, &bytes);
        expect_end(&peer, stream, 200, (int)cases[i].status);
    }
    http2_close(&peer);
}

/* What is refused is refused before it has come whole, and not waited for. */
static void a_refusal_does_not_wait_for_the_request(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer headers = { 0 }, bytes = { 0 };
    put_call_headers(&headers, "/test.Test/Nothing");
    put_frame(&bytes, HEADERS, END_HEADERS, 1, headers.data, (uint32_t)headers.length);
    http2_send(&peer, &bytes);
    expect_end(&peer, 1, 200, GRPC_UNIMPLEMENTED);
    headers.length = 0;
    put_call_headers(&headers, "/test.Test/Echo");
    put_frame(&bytes, HEADERS, END_HEADERS, 3, headers.data, (uint32_t)headers.length);
    put_frame(&bytes, DATA, 0, 3, "\0\xff\0\0\0", 5);
    http2_send(&peer, &bytes);
    expect_end(&peer, 3, 200, GRPC_RESOURCE_EXHAUSTED);
    buffer_free(&headers);
    http2_close(&peer);
}

static void half_requests_hold_up_nobody(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peers[40];
    for (size_t i = 0; i < 40; i++) {
        struct buffer headers = { 0 }, bytes = { 0 };
        peers[i] = greet(place);
        put_call_headers(&headers, "/test.Test/Echo");
        for (uint32_t stream = 1; stream < 200; stream += 2) {
            put_frame(&bytes, HEADERS, END_HEADERS, stream, headers.data, (uint32_t)headers.length);
            put_frame(&bytes, DATA, 0, stream, "\0\0\0\0\5ab", 7);
        }
        http2_send(&peers[i], &bytes);
        buffer_free(&headers);
    }
    expect_service(place);
    for (size_t i = 0; i < 40; i++)
        http2_close(&peers[i]);
    expect_service(place);
}

static void streams_have_a_limit(void **state)
{
    struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer bytes = { 0 };
    struct http2_end end;
    const uint32_t last = 2 * GRPC_WORKER_LIMIT + 1;
    for (uint32_t stream = 1; stream <= last; stream += 2)
        put_call(&bytes, stream, "/test.Test/Wait", "\0\0\0\0\0", 5);
    http2_send(&peer, &bytes);
    assert_true(http2_read_end(&peer, last, &end));
    assert_int_equal(end.reset, NGHTTP2_REFUSED_STREAM);
    expect_count(&place->running, GRPC_WORKER_LIMIT);
    http2_close(&peer);
    expect_count(&place->running, 0);
    expect_service(place);
}

static void resets_in_a_row(void **state)
{
    struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer bytes = { 0 };
    for (uint32_t stream = 1; stream < 20000; stream += 2) {
        put_call(&bytes, stream, "/test.Test/Wait", "\0\0\0\0\0", 5);
        put_frame(&bytes, RST_STREAM, 0, stream, "\0\0\0\10", 4);
    }
    http2_send(&peer, &bytes);
    expect_service(place);
    http2_close(&peer);
    expect_count(&place->running, 0);
}

static void pings_that_nobody_reads(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct timeval patience = { .tv_usec = 200000 };
    struct buffer bytes = { 0 };
    setsockopt(peer.descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    for (int i = 0; i < 200000; i++)
        put_frame(&bytes, PING, 0, 0, "12345678", 8);
    http2_send(&peer, &bytes);
    expect_service(place);
    http2_close(&peer);
}

/* It gets what fits into HTTP/2's window; the sender waits, and ends when the client has gone. */
static void a_client_that_does_not_read(void **state)
{
    struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer bytes = { 0 };
    put_call(&bytes, 1, "/test.Test/Pour", "\0\0\0\0\0", 5);
    put_call(&bytes, 3, "/test.Test/Pour", "\0\0\0\0\0", 5);
    http2_send(&peer, &bytes);
    expect_count(&place->running, 2);
    expect_service(place);
    put_frame(&bytes, RST_STREAM, 0, 3, "\0\0\0\10", 4);
    http2_send(&peer, &bytes);
    expect_count(&place->running, 1);
    http2_close(&peer);
    expect_count(&place->running, 0);
}

/* Who connects finds a place, however many there are that say nothing; and who was of use before
 * keeps it. */
static void silent_connections_make_room(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer used = greet(place), silent[300];
    for (uint32_t stream = 1; stream <= 3; stream += 2) {
        struct buffer bytes = { 0 };
        put_call(&bytes, stream, "/test.Test/Echo", "\0\0\0\0\1x", 6);
        http2_send(&used, &bytes);
        expect_end(&used, stream, 200, GRPC_OK);
        for (size_t i = 0; stream == 1 && i < 300; i++)
            silent[i] = i % 2 ? greet(place) : http2_connect(place->path);
    }
    expect_service(place);
    for (size_t i = 0; i < 300; i++)
        http2_close(&silent[i]);
    http2_close(&used);
}

static void headers_without_end(void **state)
{
    const struct grpc_place *place = *state;
    struct http2_peer peer = greet(place);
    struct buffer headers = { 0 }, bytes = { 0 };
    put_call_headers(&headers, "/test.Test/Echo");
    put_frame(&bytes, HEADERS, 0, 1, headers.data, (uint32_t)headers.length);
    for (int i = 0; i < 100000; i++)
        put_frame(&bytes, CONTINUATION, 0, 1, "\0\5color\4blue", 12);
    http2_send(&peer, &bytes);
    expect_disconnection(&peer);
    buffer_free(&headers);
    expect_service(place);
}

/* Calls whose answers are not wanted: no window for them is ever opened. */
static void put_unwanted_calls(struct buffer *bytes, uint32_t count)
{
    put_frame(bytes, SETTINGS, 0, 0, "\0\4\0\0\0\0", 6);
    for (uint32_t i = 0; i < count; i++)
        put_call(bytes, 2 * i + 1, "/test.Test/Fill", "\0\0\0\0\0", 5);
}

static void unread_answers_are_bounded(void **state)
{
    struct grpc_place *place = *state;
    enum { CALLS = 32, PEERS = 6 };
    struct http2_peer peers[PEERS];
    for (size_t i = 0; i < PEERS; i++) {
        struct buffer bytes = { 0 };
        peers[i] = greet(place);
        put_unwanted_calls(&bytes, CALLS);
        http2_send(&peers[i], &bytes);
    }
    expect_count(&place->filled, CALLS * PEERS);
    expect_service(place);
    size_t ended = 0;
    for (size_t i = 0; i < PEERS; i++) {
        struct pollfd peer = { .fd = peers[i].descriptor, .events = POLLRDHUP };
        ended += poll(&peer, 1, 0) > 0;
        http2_close(&peers[i]);
    }
    /* Of 192 MiB, 128 may be there, in connections of 32. */
    assert_in_range(ended, 1, 3);
    expect_service(place);
}

static void a_stop_does_not_wait_for_clients(void **state)
{
    struct grpc_place *place = *state;
    struct http2_peer silent = http2_connect(place->path), peer = greet(place);
    struct buffer bytes = { 0 };
    put_call(&bytes, 1, "/test.Test/Pour", "\0\0\0\0\0", 5);
    put_call(&bytes, 3, "/test.Test/Wait", "\0\0\0\0\0", 5);
    http2_send(&peer, &bytes);
    expect_count(&place->running, 2);
    place_stop(place);
    assert_int_equal(atomic_load(&place->running), 0);
    http2_close(&silent);
    http2_close(&peer);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, place_set_up, place_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_no_http2_is_dropped),
        TEST(broken_frames_end_their_connection),
        TEST(headers_are_checked),
        TEST(too_many_headers_are_refused),
        TEST(messages_are_checked),
        TEST(a_refusal_does_not_wait_for_the_request),
        TEST(half_requests_hold_up_nobody),
        TEST(streams_have_a_limit),
        TEST(resets_in_a_row),
        TEST(pings_that_nobody_reads),
        TEST(a_client_that_does_not_read),
        TEST(silent_connections_make_room),
        TEST(headers_without_end),
        TEST(unread_answers_are_bounded),
        TEST(a_stop_does_not_wait_for_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
