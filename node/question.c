#include "node/question.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/file.h"

#define ANSWER_DONE 0

#define SEND_TIMEOUT_MS 10000

/* ---- who asks ---- */

/* One that has stopped to read leaves no room at some time. */
static int wait_for_room(const struct question_peer *peer, int timeout_ms, struct error **error)
{
    struct pollfd watched = { .fd = peer->socket, .events = POLLOUT };
    int ready;
    do
        ready = poll(&watched, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    if (ready < 0) return error_set_errno(error, errno, "wait for %s", peer->name);
    if (ready == 0) return error_set(error, ERROR_UNREACHABLE, "%s does not answer", peer->name);
    return 0;
}

int question_send(const struct question_peer *peer, const void *text, size_t length,
                  struct error **error)
{
    int pair[2];
    if (length > QUESTION_LENGTH_MAX)
        return error_set(error, ERROR_INVALID, "a question to %s is too long", peer->name);
    if (wait_for_room(peer, SEND_TIMEOUT_MS, error) < 0) return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int ours = pair[0];
    cleanup_close int theirs = pair[1];
    if (descriptor_message_send(peer->socket, text, length, theirs) < 0)
        return error_set_errno(error, errno, "%s has ended", peer->name);
    return take_descriptor(&ours);
}

/* Waits for bytes, the end, or `cancel`. */
static int wait_for_bytes(const struct question_peer *peer, int from, int cancel, int timeout_ms,
                          struct error **error)
{
    struct pollfd watched[] = { { .fd = from, .events = POLLIN },
                                { .fd = cancel, .events = POLLIN } };
    int ready;
    do
        ready = poll(watched, 2, timeout_ms);
    while (ready < 0 && errno == EINTR);
    if (ready < 0) return error_set_errno(error, errno, "wait for %s", peer->name);
    if (watched[1].revents) return error_set(error, ERROR_CANCELLED, "cancelled");
    if (ready == 0) return error_set(error, ERROR_UNREACHABLE, "%s does not answer", peer->name);
    return 0;
}

static int read_text(const struct question_peer *peer, int from, int cancel, int timeout_ms,
                     struct buffer *ret, struct error **error)
{
    for (;;) {
        if (wait_for_bytes(peer, from, cancel, timeout_ms, error) < 0) return -1;
        if (buffer_reserve(ret, 4096) < 0) return error_set_memory(error);
        ssize_t count = recv(from, ret->data + ret->length, 4096, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set_errno(error, errno, "read from %s", peer->name);
        if (count == 0) return 0;
        ret->length += (size_t)count;
        if (ret->length > ANSWER_LENGTH_MAX)
            return error_set(error, ERROR_INVALID, "the answer of %s is too long", peer->name);
    }
}

static enum error_kind kind_of(unsigned char status)
{
    return status <= ERROR_PRECONDITION ? (enum error_kind)status : ERROR_SYSTEM;
}

int question_wait(const struct question_peer *peer, int from, int cancel, int timeout_ms,
                  struct buffer *ret, int *ret_descriptor, struct error **error)
{
    cleanup_close int received = -1;
    unsigned char status;
    if (wait_for_bytes(peer, from, cancel, timeout_ms, error) < 0) return -1;
    ssize_t count = descriptor_message_receive(from, &status, 1, &received);
    if (count <= 0) return error_set(error, ERROR_SYSTEM, "%s has ended", peer->name);
    if (read_text(peer, from, cancel, timeout_ms, ret, error) < 0) return -1;
    if (status != ANSWER_DONE)
        return error_set(error, kind_of(status), "%.*s", (int)ret->length,
                         ret->data ? (char *)ret->data : "");
    *ret_descriptor = take_descriptor(&received);
    return 0;
}

int question_ask(const struct question_peer *peer, const void *text, size_t length, int timeout_ms,
                 struct buffer *ret, struct error **error)
{
    cleanup_close int descriptor = -1;
    cleanup_close int from = question_send(peer, text, length, error);
    if (from < 0) return -1;
    return question_wait(peer, from, -1, timeout_ms, ret, &descriptor, error);
}

/* ---- who answers ---- */

ssize_t question_receive(int socket, char *text, int *ret_to)
{
    ssize_t length = descriptor_message_receive(socket, text, QUESTION_LENGTH_MAX, ret_to);
    text[length > 0 ? length : 0] = 0;
    return length;
}

int question_answer(int to, const struct error *error, const struct buffer *text, int descriptor)
{
    unsigned char status = error ? (unsigned char)error_kind_of(error) : ANSWER_DONE;
    if (descriptor_message_send(to, &status, 1, descriptor) < 0) return -1;
    /* Who does not listen any more has closed the socket. */
    if (error) return write_fully(to, error_message(error), strlen(error_message(error)));
    return text && text->length ? write_fully(to, text->data, text->length) : 0;
}
