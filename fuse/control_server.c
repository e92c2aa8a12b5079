/*
 * One thread, one poll(2): each visitor is a small state with a deadline, so
 * that one who never writes, or never reads, holds up nobody and is soon sent
 * away. Only those who wait for the end may stay, and must make room when all
 * places are taken.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/thread.h"
#include "fuse/control-internal.h"

#define VISITORS_MAX 64u
#define QUESTION_MAX 63u
/* When no descriptor is left, the one who knocks stays in the queue: asking at once again would
 * turn the thread into a spinning one. */
#define ACCEPT_PAUSE_MS 100

enum visitor_state { VISITOR_ASKS, VISITOR_IS_ANSWERED, VISITOR_WAITS };

struct visitor {
    int socket;
    enum visitor_state state;
    int64_t since;
    char question[QUESTION_MAX + 1];
    size_t question_length;
    struct buffer answer;
    size_t sent;
};

struct control_server {
    char *path;
    dev_t device; /* which file the socket is, so that only that is removed */
    ino_t inode;
    int listener;
    int wake; /* eventfd: stop */
    control_status *status;
    void *context;
    pthread_t thread;
    struct visitor visitors[VISITORS_MAX];
    size_t visitor_count;
    int64_t accept_after;
};

/* ---- visitors ---- */

static void dismiss(struct control_server *server, size_t index)
{
    struct visitor *visitor = &server->visitors[index];
    close(visitor->socket);
    buffer_free(&visitor->answer);
    *visitor = server->visitors[--server->visitor_count];
}

/* The one who has been waiting longest, else the one who has been here longest. */
static void make_room(struct control_server *server)
{
    size_t chosen = 0;
    for (size_t i = 1; i < server->visitor_count; i++) {
        const struct visitor *best = &server->visitors[chosen];
        const struct visitor *other = &server->visitors[i];
        bool best_waits = best->state == VISITOR_WAITS;
        bool other_waits = other->state == VISITOR_WAITS;
        if (other_waits != best_waits ? other_waits : other->since < best->since) chosen = i;
    }
    dismiss(server, chosen);
}

static bool is_allowed(int descriptor)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static void accept_visitor(struct control_server *server)
{
    int descriptor = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            server->accept_after = control_now() + ACCEPT_PAUSE_MS;
        return;
    }
    if (!is_allowed(descriptor)) {
        close(descriptor);
        return;
    }
    if (server->visitor_count == VISITORS_MAX) make_room(server);
    server->visitors[server->visitor_count++] =
        (struct visitor){ .socket = descriptor, .state = VISITOR_ASKS, .since = control_now() };
}

/* ---- questions and answers; each returns false when the visitor is to go ---- */

static bool prepare_status(struct control_server *server, struct visitor *visitor)
{
    if (server->status(server->context, &visitor->answer) < 0) return false;
    if (visitor->answer.length > CONTROL_STATUS_MAX) {
        log_error("control: the status has %zu bytes, more than can be sent",
                  visitor->answer.length);
        return false;
    }
    visitor->state = VISITOR_IS_ANSWERED;
    visitor->since = control_now();
    return true;
}

static bool answer_question(struct control_server *server, struct visitor *visitor)
{
    if (strcmp(visitor->question, CONTROL_STATUS) == 0) return prepare_status(server, visitor);
    if (strcmp(visitor->question, CONTROL_WAIT) != 0) return false;
    visitor->state = VISITOR_WAITS;
    return true;
}

static bool hear_question(struct control_server *server, struct visitor *visitor)
{
    ssize_t count = recv(visitor->socket, visitor->question + visitor->question_length,
                         QUESTION_MAX - visitor->question_length, 0);
    if (count < 0) return errno == EINTR || errno == EAGAIN;
    if (count == 0) return false;
    visitor->question_length += (size_t)count;
    char *end = memchr(visitor->question, '\n', visitor->question_length);
    if (!end) return visitor->question_length < QUESTION_MAX;
    *end = 0;
    if (strlen(visitor->question) != (size_t)(end - visitor->question)) return false;
    return answer_question(server, visitor);
}

static bool send_answer(struct visitor *visitor)
{
    ssize_t count = send(visitor->socket, visitor->answer.data + visitor->sent,
                         visitor->answer.length - visitor->sent, MSG_NOSIGNAL);
    if (count < 0) return errno == EINTR || errno == EAGAIN;
    visitor->sent += (size_t)count;
    return visitor->sent < visitor->answer.length;
}

/* Whatever comes from one who waits (bytes, the end) is of no use. */
static bool attend(struct control_server *server, struct visitor *visitor)
{
    switch (visitor->state) {
    case VISITOR_ASKS:
        return hear_question(server, visitor);
    case VISITOR_IS_ANSWERED:
        return send_answer(visitor);
    case VISITOR_WAITS:
        break;
    }
    return false;
}

static bool is_late(const struct visitor *visitor, int64_t now)
{
    return visitor->state != VISITOR_WAITS && now >= visitor->since + CONTROL_TIMEOUT_MS;
}

/* ---- the loop ---- */

struct poll_list {
    struct pollfd entries[2 + VISITORS_MAX]; /* stop, the listener, visitors in their order */
    nfds_t count;
    int timeout;
};

static void lower_timeout(struct poll_list *list, int64_t milliseconds)
{
    if (milliseconds < 0) milliseconds = 0;
    if (list->timeout < 0 || milliseconds < list->timeout) list->timeout = (int)milliseconds;
}

static void fill_poll_list(const struct control_server *server, struct poll_list *list)
{
    int64_t now = control_now();
    bool accepts = now >= server->accept_after;
    list->timeout = -1;
    list->count = 2 + server->visitor_count;
    list->entries[0] = (struct pollfd){ .fd = server->wake, .events = POLLIN };
    list->entries[1] = (struct pollfd){ .fd = accepts ? server->listener : -1, .events = POLLIN };
    if (!accepts) lower_timeout(list, server->accept_after - now);
    for (size_t i = 0; i < server->visitor_count; i++) {
        const struct visitor *visitor = &server->visitors[i];
        short events = visitor->state == VISITOR_IS_ANSWERED ? POLLOUT : POLLIN;
        list->entries[2 + i] = (struct pollfd){ .fd = visitor->socket, .events = events };
        if (visitor->state != VISITOR_WAITS)
            lower_timeout(list, visitor->since + CONTROL_TIMEOUT_MS - now);
    }
}

static void *run_server(void *context)
{
    struct control_server *server = context;
    for (;;) {
        struct poll_list list;
        fill_poll_list(server, &list);
        if (poll(list.entries, list.count, list.timeout) < 0 && errno != EINTR) {
            log_error("control: poll: %s", strerror(errno));
            return NULL;
        }
        if (list.entries[0].revents) return NULL;
        int64_t now = control_now();
        /* From the end: who is dismissed is replaced by the last one, who had his turn. */
        for (size_t i = server->visitor_count; i-- > 0;) {
            struct visitor *visitor = &server->visitors[i];
            bool stays = !list.entries[2 + i].revents || attend(server, visitor);
            if (!stays || is_late(visitor, now)) dismiss(server, i);
        }
        if (list.entries[1].revents) accept_visitor(server);
    }
}

/* ---- starting and stopping ---- */

/* Under the lock. */
static int listen_at(struct control_server *server, struct error **error)
{
    struct sockaddr_un address;
    enum control_liveness liveness;
    if (control_address(server->path, &address, error) < 0 ||
        control_connect(server->path, &liveness, NULL, error) < 0)
        return -1;
    if (liveness == CONTROL_LIVE) {
        error_set(error, ERROR_INVALID, "a sluice server is at work there already");
        return error_hint(error, "'sluice status' shows it, 'sluice umount' ends it");
    }
    if (liveness == CONTROL_STALE && unlink(server->path) < 0 && errno != ENOENT)
        return error_set_errno(error, errno, "remove stale socket '%s'", server->path);

    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0) return error_set_errno(error, errno, "make a socket");
    /* Linux makes the file with the socket's own mode, less the umask. */
    struct stat status;
    if (fchmod(server->listener, 0600) < 0 ||
        bind(server->listener, (const struct sockaddr *)&address, sizeof address) < 0)
        return error_set_errno(error, errno, "make socket '%s'", server->path);
    if (listen(server->listener, VISITORS_MAX) < 0 || lstat(server->path, &status) < 0) {
        int number = errno;
        unlink(server->path);
        return error_set_errno(error, number, "listen on '%s'", server->path);
    }
    server->device = status.st_dev;
    server->inode = status.st_ino;
    return 0;
}

static int open_server(struct control_server *server, struct error **error)
{
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->wake < 0) return error_set_errno(error, errno, "make an eventfd");
    cleanup_close int lock = control_lock(server->path, error);
    if (lock < 0) return -1;
    return listen_at(server, error);
}

static void remove_socket(const struct control_server *server)
{
    struct stat status;
    cleanup_close int lock = control_lock(server->path, NULL);
    (void)lock;
    if (lstat(server->path, &status) == 0 && status.st_dev == server->device &&
        status.st_ino == server->inode)
        unlink(server->path);
}

static int start_thread(struct control_server *server, struct error **error)
{
    if (thread_start(&server->thread, "sluice-control", run_server, server, error) == 0) return 0;
    remove_socket(server);
    return error_prefix(error, "'%s'", server->path);
}

static void free_server(struct control_server *server)
{
    while (server->visitor_count > 0)
        dismiss(server, server->visitor_count - 1);
    if (server->listener >= 0) close(server->listener);
    if (server->wake >= 0) close(server->wake);
    free(server->path);
    free(server);
}

int control_server_start(struct control_server **ret, const char *socket_path,
                         control_status *status, void *context, struct error **error)
{
    struct control_server *server = calloc(1, sizeof *server);
    if (!server) return error_set_memory(error);
    server->listener = server->wake = -1;
    server->status = status;
    server->context = context;
    server->path = strdup(socket_path);
    if (!server->path) {
        free_server(server);
        return error_set_memory(error);
    }
    if (open_server(server, error) < 0 || start_thread(server, error) < 0) {
        free_server(server);
        return -1;
    }
    *ret = server;
    return 0;
}

void control_server_stop(struct control_server *server)
{
    if (!server) return;
    /* Before anybody is let go: who waits for the end looks for the socket next. */
    remove_socket(server);
    eventfd_write(server->wake, 1);
    pthread_join(server->thread, NULL);
    free_server(server);
}
