#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "base/cleanup.h"
#include "fuse/control-internal.h"

static void pause_a_little(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

/* poll(2) for one descriptor until `deadline`: 1 ready, 0 too late, -1 with errno. */
static int wait_until(int descriptor, short events, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - control_now();
        if (left <= 0) return 0;
        struct pollfd entry = { .fd = descriptor, .events = events };
        int result = poll(&entry, 1, left < INT32_MAX ? (int)left : INT32_MAX);
        if (result > 0 || (result < 0 && errno != EINTR)) return result;
    }
}

/* A connection on which `question` was sent; *ret_liveness is not CONTROL_LIVE when nobody
 * listens. */
static int ask(const char *socket_path, const char *question, int64_t deadline,
               enum control_liveness *ret_liveness, int *ret_socket, struct error **error)
{
    for (;;) {
        if (control_connect(socket_path, ret_liveness, ret_socket, error) < 0) return -1;
        if (*ret_liveness != CONTROL_LIVE || *ret_socket >= 0) break;
        if (control_now() >= deadline)
            return error_set(error, ERROR_UNREACHABLE, "the server behind '%s' is too busy",
                             socket_path);
        pause_a_little();
    }
    if (*ret_liveness != CONTROL_LIVE) return 0;
    /* The line fits into any socket's buffer. A server that refuses us may be gone already, which
     * the reader will see. */
    char line[32];
    int length = snprintf(line, sizeof line, "%s\n", question);
    ssize_t sent;
    do
        sent = send(*ret_socket, line, (size_t)length, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return 0;
}

static int read_answer(int descriptor, int64_t deadline, struct buffer *ret, struct error **error)
{
    size_t start = ret->length;
    for (;;) {
        int ready = wait_until(descriptor, POLLIN, deadline);
        if (ready == 0) return error_set(error, ERROR_UNREACHABLE, "no answer in time");
        if (ready < 0) return error_set_errno(error, errno, "wait for the answer");
        if (buffer_reserve(ret, 16384) < 0) return error_set_memory(error);
        ssize_t count =
            recv(descriptor, ret->data + ret->length, ret->capacity - ret->length, MSG_DONTWAIT);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (count < 0) return error_set_errno(error, errno, "read the answer");
        if (count == 0) break;
        ret->length += (size_t)count;
        if (ret->length - start > CONTROL_STATUS_MAX)
            return error_set(error, ERROR_INVALID, "the answer is longer than %u bytes",
                             CONTROL_STATUS_MAX);
    }
    if (ret->length > start) return 0;
    return error_set(error, ERROR_UNREACHABLE, "it answered nothing");
}

/* One try. */
static int query(const char *socket_path, int64_t deadline, struct buffer *ret,
                 struct error **error)
{
    enum control_liveness liveness;
    cleanup_close int descriptor = -1;
    if (ask(socket_path, CONTROL_STATUS, deadline, &liveness, &descriptor, error) < 0) return -1;
    if (liveness != CONTROL_LIVE) {
        if (liveness == CONTROL_STALE) control_remove_stale(socket_path);
        return error_set(error, ERROR_NOT_FOUND, "no server listens on '%s'", socket_path);
    }
    size_t start = ret->length;
    if (read_answer(descriptor, deadline, ret, error) == 0) return 0;
    ret->length = start;
    return error_prefix(error, "ask the server behind '%s'", socket_path);
}

int control_query(const char *socket_path, struct buffer *ret_json, struct error **error)
{
    int64_t deadline = control_now() + CONTROL_TIMEOUT_MS;
    for (;;) {
        struct error *reason = NULL;
        if (query(socket_path, deadline, ret_json, &reason) == 0) return 0;
        /* It was killed after it had taken the call: the next one tells. */
        if (error_errno(reason) != ECONNRESET || control_now() >= deadline)
            return error_move(error, reason);
        error_free(reason);
        pause_a_little();
    }
}

bool control_wait_gone(const char *socket_path, unsigned timeout_ms)
{
    int64_t deadline = control_now() + timeout_ms;
    for (;;) {
        enum control_liveness liveness;
        cleanup_close int descriptor = -1;
        if (ask(socket_path, CONTROL_WAIT, deadline, &liveness, &descriptor, NULL) < 0)
            return false;
        if (liveness != CONTROL_LIVE) return true;
        int ready = wait_until(descriptor, POLLIN, deadline);
        if (ready <= 0) return false;
        /* Closed: it has ended, or had too many visitors. The next round tells. */
        pause_a_little();
    }
}
