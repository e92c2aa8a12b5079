#include "grpc/client-internal.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "grpc/wire-internal.h"

enum { READ_SIZE = 65536, CANCEL_CHECK_MS = 100, CONNECT_PAUSE_MS = 10 };

/* A call as far as it has come. */
struct exchange {
    struct buffer output; /* the request's message, framed */
    size_t output_sent;
    struct grpc_message_reader input;
    int http_status;
    int status; /* -1: not known yet */
    char *text;
    int32_t stream;
    bool closed;
    uint32_t code; /* with which the stream was closed */
};

struct grpc_line {
    int descriptor;
    char *path; /* for messages */
    nghttp2_session *session;
    struct exchange *exchange; /* NULL between calls */
    const uint8_t *unsent;     /* of the session, until it is asked for more */
    size_t unsent_length;
    bool ended, leaving; /* nothing works any more; GOAWAY came */
};

/* ---- what nghttp2 asks and tells ---- */

static ssize_t give_request(nghttp2_session *session, int32_t stream, uint8_t *data, size_t length,
                            uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session;
    (void)stream;
    (void)user;
    struct exchange *exchange = source->ptr;
    size_t left = exchange->output.length - exchange->output_sent;
    size_t taken = left < length ? left : length;
    memcpy(data, exchange->output.data + exchange->output_sent, taken);
    exchange->output_sent += taken;
    if (taken == left) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)taken;
}

static struct exchange *exchange_of(const struct grpc_line *line, int32_t stream)
{
    return line->exchange && line->exchange->stream == stream ? line->exchange : NULL;
}

static bool name_is(const uint8_t *name, size_t length, const char *what)
{
    return length == strlen(what) && memcmp(name, what, length) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                     void *user)
{
    (void)session;
    (void)flags;
    struct exchange *exchange = exchange_of(user, frame->hd.stream_id);
    if (!exchange || frame->hd.type != NGHTTP2_HEADERS) return 0;
    if (name_is(name, name_length, ":status")) {
        grpc_number_parse(value, value_length, &exchange->http_status);
    } else if (name_is(name, name_length, "grpc-status")) {
        int number;
        exchange->status = GRPC_UNKNOWN;
        if (grpc_number_parse(value, value_length, &number) && number <= GRPC_UNAUTHENTICATED)
            exchange->status = number;
    } else if (name_is(name, name_length, "grpc-message") && !exchange->text) {
        exchange->text = grpc_text_decode(value, value_length);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                   size_t length, void *user)
{
    (void)session;
    (void)flags;
    struct exchange *exchange = exchange_of(user, stream);
    if (exchange) grpc_message_add(&exchange->input, data, length);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)session;
    struct grpc_line *line = user;
    if (frame->hd.type == NGHTTP2_GOAWAY) line->leaving = true;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user)
{
    (void)session;
    struct exchange *exchange = exchange_of(user, stream);
    if (exchange) {
        exchange->closed = true;
        exchange->code = code;
    }
    return 0;
}

/* ---- the connection ---- */

static int make_session(struct grpc_line *line)
{
    nghttp2_session_callbacks *callbacks = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) return -1;
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    int result = nghttp2_session_client_new(&line->session, callbacks, line);
    nghttp2_session_callbacks_del(callbacks);
    if (result != 0) return -1;
    const nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_METADATA_BYTES },
    };
    return nghttp2_submit_settings(line->session, NGHTTP2_FLAG_NONE, settings,
                                   sizeof settings / sizeof *settings);
}

static int connect_line(struct grpc_line *line, uint64_t deadline, struct error **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(line->path) >= sizeof address.sun_path)
        return error_set(error, ERROR_INVALID, "socket '%s': the name has more than %zu bytes",
                         line->path, sizeof address.sun_path - 1);
    memcpy(address.sun_path, line->path, strlen(line->path) + 1);
    line->descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (line->descriptor < 0) return error_set_errno(error, errno, "make a socket");
    while (connect(line->descriptor, (struct sockaddr *)&address, sizeof address) < 0) {
        /* EAGAIN: as many as it lets wait are waiting already. */
        if (errno == EINTR) continue;
        if (errno != EAGAIN || clock_ms() >= deadline) {
            error_set(error, ERROR_UNREACHABLE, "connect to '%s': %s", line->path, strerror(errno));
            return error_hint(error, "is its server running?");
        }
        poll(NULL, 0, CONNECT_PAUSE_MS);
    }
    return 0;
}

int grpc_line_open(struct grpc_line **ret, const char *socket_path, uint64_t deadline,
                   struct error **error)
{
    struct grpc_line *line = calloc(1, sizeof *line);
    if (!line) return error_set_memory(error);
    line->descriptor = -1;
    line->path = strdup(socket_path);
    if (!line->path || make_session(line) != 0)
        error_set_memory(error);
    else if (connect_line(line, deadline, error) == 0) {
        *ret = line;
        return 0;
    }
    grpc_line_close(line);
    return -1;
}

void grpc_line_close(struct grpc_line *line)
{
    nghttp2_session_del(line->session);
    if (line->descriptor >= 0) close(line->descriptor);
    free(line->path);
    free(line);
}

/* Reads once what has come. */
static void read_input(struct grpc_line *line)
{
    uint8_t bytes[READ_SIZE];
    ssize_t length = recv(line->descriptor, bytes, sizeof bytes, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0 || nghttp2_session_mem_recv(line->session, bytes, (size_t)length) < 0)
        line->ended = true;
}

static void write_output(struct grpc_line *line)
{
    while (!line->ended) {
        if (line->unsent_length == 0) {
            ssize_t made = nghttp2_session_mem_send(line->session, &line->unsent);
            if (made < 0) line->ended = true;
            if (made <= 0) return;
            line->unsent_length = (size_t)made;
        }
        ssize_t sent =
            send(line->descriptor, line->unsent, line->unsent_length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) {
            /* What the server said before it left may still be read. */
            line->unsent_length = 0;
            line->leaving = true;
            return;
        }
        line->unsent += sent;
        line->unsent_length -= (size_t)sent;
    }
}

bool grpc_line_is_usable(struct grpc_line *line)
{
    struct pollfd input = { .fd = line->descriptor, .events = POLLIN };
    while (!line->ended && poll(&input, 1, 0) > 0)
        read_input(line);
    if (!line->ended) write_output(line);
    return !line->ended && !line->leaving && line->unsent_length == 0;
}

/* ---- a call ---- */

#define HEADER(name_text, value_text)                                                           \
    (nghttp2_nv)                                                                                \
    {                                                                                           \
        (uint8_t *)(name_text), (uint8_t *)(value_text), strlen(name_text), strlen(value_text), \
            NGHTTP2_NV_FLAG_NONE                                                                \
    }

static int submit(struct grpc_line *line, const struct grpc_request *request, uint64_t deadline)
{
    struct exchange *exchange = line->exchange;
    nghttp2_nv headers[8 + GRPC_METADATA_COUNT] = {
        HEADER(":method", "POST"),
        HEADER(":scheme", "http"),
        HEADER(":path", request->path),
        HEADER(":authority", "localhost"),
        HEADER("content-type", "application/grpc"),
        HEADER("te", "trailers"),
        HEADER("user-agent", "sluice/" SLUICE_VERSION),
    };
    size_t count = 7;
    char timeout[GRPC_TIMEOUT_LENGTH];
    if (deadline != UINT64_MAX) {
        uint64_t now = clock_ms();
        grpc_timeout_format(now < deadline ? deadline - now : 0, timeout);
        headers[count++] = HEADER("grpc-timeout", timeout);
    }
    for (size_t i = 0; request->metadata && i < request->metadata->count; i++) {
        const struct grpc_metadatum *entry = &request->metadata->entries[i];
        headers[count++] = HEADER(entry->name, entry->value);
    }
    const nghttp2_data_provider provider = { .source.ptr = exchange,
                                             .read_callback = give_request };
    exchange->stream = nghttp2_submit_request(line->session, NULL, headers, count, &provider, NULL);
    return exchange->stream < 0 ? -1 : 0;
}

/* Until the server has answered or cannot any more. */
static int wait_for_answer(struct grpc_line *line, const struct grpc_request *request,
                           uint64_t deadline, struct error **error)
{
    const struct exchange *exchange = line->exchange;
    while (!exchange->closed && !line->ended && exchange->input.fault == GRPC_MESSAGE_FINE) {
        write_output(line);
        uint64_t now = clock_ms();
        if (now >= deadline)
            return error_set(error, ERROR_UNREACHABLE, "%s of '%s': no answer in time",
                             request->path, line->path);
        if (request->cancelled && request->cancelled(request->context))
            return error_set(error, ERROR_CANCELLED, "%s of '%s': given up", request->path,
                             line->path);
        uint64_t wait = deadline - now;
        if (request->cancelled && wait > CANCEL_CHECK_MS) wait = CANCEL_CHECK_MS;
        struct pollfd socket = {
            .fd = line->descriptor,
            .events = (short)(line->unsent_length > 0 ? POLLIN | POLLOUT : POLLIN),
        };
        if (poll(&socket, 1, wait > 60000 ? 60000 : (int)wait) > 0 && socket.revents != POLLOUT)
            read_input(line);
    }
    return 0;
}

/* What came is no answer: why. */
static int explain(const struct grpc_line *line, const struct grpc_request *request,
                   struct error **error)
{
    const struct exchange *exchange = line->exchange;
    if (exchange->input.fault == GRPC_MESSAGE_TOO_LONG)
        return error_set(error, ERROR_INVALID, "%s of '%s': the answer has more than %d MiB",
                         request->path, line->path, GRPC_ANSWER_LIMIT >> 20);
    if (exchange->input.fault != GRPC_MESSAGE_FINE)
        return error_set(error, ERROR_INVALID, "%s of '%s': the answer is malformed", request->path,
                         line->path);
    if (!exchange->closed)
        return error_set(error, ERROR_UNREACHABLE, "%s of '%s': the server ended the connection",
                         request->path, line->path);
    if (exchange->http_status && exchange->http_status != 200)
        return error_set(error, ERROR_INVALID, "%s of '%s': HTTP status %d, this is no gRPC server",
                         request->path, line->path, exchange->http_status);
    return error_set(error, ERROR_UNREACHABLE, "%s of '%s': ended without a status (%s)",
                     request->path, line->path, nghttp2_http2_strerror(exchange->code));
}

static int take_answer(struct grpc_line *line, const struct grpc_request *request,
                       struct grpc_answer *ret, struct error **error)
{
    struct exchange *exchange = line->exchange;
    bool whole = exchange->input.fault == GRPC_MESSAGE_FINE && exchange->closed;
    if (whole && exchange->status == GRPC_OK) whole = grpc_message_end(&exchange->input) == 0;
    if (!whole || exchange->status < 0) return explain(line, request, error);
    ret->status = (enum grpc_status)exchange->status;
    ret->text = take_pointer(&exchange->text);
    if (ret->status == GRPC_OK) {
        ret->message = exchange->input.message;
        exchange->input.message = (struct buffer){ 0 };
    }
    return 0;
}

int grpc_line_call(struct grpc_line *line, const struct grpc_request *request, uint64_t deadline,
                   struct grpc_answer *ret, bool *ret_refused, struct error **error)
{
    struct exchange exchange = { .input.limit = GRPC_ANSWER_LIMIT, .status = -1, .stream = -1 };
    int result;
    *ret_refused = false;
    line->exchange = &exchange;
    if (grpc_message_append(&exchange.output, request->message, request->length) < 0 ||
        submit(line, request, deadline) < 0)
        result = error_set_memory(error);
    else if ((result = wait_for_answer(line, request, deadline, error)) == 0)
        result = take_answer(line, request, ret, error);
    if (result < 0 && exchange.status < 0)
        *ret_refused = exchange.closed && exchange.code == NGHTTP2_REFUSED_STREAM;
    line->exchange = NULL;
    /* A call that is under way goes with its connection; and who answers oddly is not asked again.
     */
    if (!exchange.closed || result < 0) line->ended = true;
    buffer_free(&exchange.output);
    buffer_free(&exchange.input.message);
    free(exchange.text);
    return result;
}
