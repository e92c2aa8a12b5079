#include "grpc/server-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"

enum { EVENT_COUNT = 64, LAST_ANSWERS_MS = 1000, ACCEPT_PAUSE_MS = 1000, BACKLOG = 128 };

/* ---- the thread of the connections ---- */

void grpc_server_wake(struct grpc_server *server)
{
    /* Only fails when the counter is full, and then it is awake. */
    eventfd_write(server->wake, 1);
}

static int watch(struct grpc_server *server, int *descriptor)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = descriptor };
    return epoll_ctl(server->poll, EPOLL_CTL_ADD, *descriptor, &event);
}

/* Without a call, best one that never made any, and of these the one that is here longest. */
static bool is_less_used(const struct grpc_connection *connection,
                         const struct grpc_connection *than)
{
    if (!than || connection->called != than->called) return !than || than->called;
    return connection->moved < than->moved;
}

/* Who says nothing goes for somebody who may; it is closed before the next one is accepted. False:
 * all have calls. */
static bool make_room(struct grpc_server *server)
{
    struct grpc_connection *connection, *chosen = NULL;
    LIST_FOREACH(connection, &server->connections, of_server)
    {
        if (!connection->ended && LIST_EMPTY(&connection->calls) &&
            is_less_used(connection, chosen))
            chosen = connection;
    }
    if (chosen) chosen->ended = true;
    return chosen != NULL;
}

static void accept_connection(struct grpc_server *server)
{
    int descriptor = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor >= 0 && server->connection_count >= CONNECTION_LIMIT && !make_room(server)) {
        log_warning("'%s': more than %d connections; one is refused", server->path,
                    CONNECTION_LIMIT);
        close(descriptor);
    } else if (descriptor >= 0) {
        if (grpc_connection_open(server, descriptor) < 0)
            log_warning("'%s': a connection is refused: out of memory or descriptors",
                        server->path);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        /* Out of descriptors, most likely: who waits shall not keep this thread busy. */
        log_warning("'%s': accept: %s", server->path, strerror(errno));
        epoll_ctl(server->poll, EPOLL_CTL_DEL, server->listener, NULL);
        server->accept_again = clock_ms() + ACCEPT_PAUSE_MS;
    }
}

static void handle_event(struct grpc_server *server, void *which)
{
    uint64_t count;
    if (which == &server->listener) {
        accept_connection(server);
    } else if (which == &server->wake) {
        ssize_t got = read(server->wake, &count, sizeof count);
        (void)got;
    } else {
        grpc_connection_read(which);
    }
}

static struct grpc_call *take_ready(struct grpc_server *server)
{
    pthread_mutex_lock(&server->lock);
    struct grpc_call *call = STAILQ_FIRST(&server->ready);
    if (call) {
        STAILQ_REMOVE_HEAD(&server->ready, ready);
        call->is_ready = false;
    }
    pthread_mutex_unlock(&server->lock);
    return call;
}

/* The memory that is free when the connection with most answers has ended; 0: there is none. */
static size_t end_most_unread(struct grpc_server *server)
{
    struct grpc_connection *connection, *chosen = NULL;
    size_t most = 0;
    LIST_FOREACH(connection, &server->connections, of_server)
    {
        size_t memory = connection->ended ? 0 : grpc_connection_memory(connection);
        if (memory <= most) continue;
        most = memory;
        chosen = connection;
    }
    if (!chosen) return 0;
    log_warning("'%s': a client leaves %zu MiB of answers unread; its connection ends",
                server->path, most >> 20);
    chosen->ended = true;
    return most;
}

static void bound_answers(struct grpc_server *server)
{
    size_t memory = atomic_load(&server->answer_memory), freed = 1;
    while (memory > ANSWER_MEMORY_LIMIT && freed > 0) {
        freed = end_most_unread(server);
        memory -= freed < memory ? freed : memory;
    }
}

/* When to look again, as clock_ms(). */
static uint64_t serve_connections(struct grpc_server *server)
{
    uint64_t now = clock_ms(), next = UINT64_MAX;
    struct grpc_connection *connection = LIST_FIRST(&server->connections);
    while (connection) {
        struct grpc_connection *after = LIST_NEXT(connection, of_server);
        if (!grpc_connection_serve(connection, now, &next)) grpc_connection_close(connection);
        connection = after;
    }
    if (server->accept_again && now >= server->accept_again &&
        watch(server, &server->listener) == 0)
        server->accept_again = 0;
    if (server->accept_again && server->accept_again < next) next = server->accept_again;
    return next;
}

static void drain(struct grpc_server *server)
{
    struct grpc_connection *connection = LIST_FIRST(&server->connections);
    /* Somebody may have a copy, and then closing alone does not end the watch. */
    epoll_ctl(server->poll, EPOLL_CTL_DEL, server->listener, NULL);
    close(server->listener);
    server->listener = -1;
    server->accept_again = 0;
    for (; connection; connection = LIST_NEXT(connection, of_server))
        grpc_connection_drain(connection);
}

static bool is_busy(const struct grpc_server *server)
{
    const struct grpc_connection *connection = LIST_FIRST(&server->connections);
    while (connection && !grpc_connection_is_busy(connection))
        connection = LIST_NEXT(connection, of_server);
    return connection != NULL;
}

/* Milliseconds for epoll_wait(): until `next`, rounded so that it has come. */
static int wait_time(uint64_t next)
{
    uint64_t now = clock_ms();
    if (next == UINT64_MAX) return -1;
    if (next <= now) return 0;
    return next - now > 60000 ? 60000 : (int)(next - now);
}

static void *serve(void *argument)
{
    struct grpc_server *server = argument;
    struct epoll_event events[EVENT_COUNT];
    struct grpc_call *call;
    uint64_t next = UINT64_MAX, end = 0;
    bool draining = false, closing = false;
    while (!closing || (is_busy(server) && clock_ms() < end)) {
        int count = epoll_wait(server->poll, events, EVENT_COUNT, wait_time(next));
        for (int i = 0; i < count; i++)
            handle_event(server, events[i].data.ptr);
        pthread_mutex_lock(&server->lock);
        bool drain_now = server->draining && !draining, close_now = server->closing && !closing;
        pthread_mutex_unlock(&server->lock);
        if (drain_now) {
            draining = true;
            drain(server);
        }
        if (close_now) {
            closing = true;
            end = clock_ms() + LAST_ANSWERS_MS;
        }
        while ((call = take_ready(server)))
            grpc_call_answer(call);
        bound_answers(server);
        next = serve_connections(server);
        if (closing && end < next) next = end;
    }
    while (!LIST_EMPTY(&server->connections))
        grpc_connection_close(LIST_FIRST(&server->connections));
    return NULL;
}

/* ---- the socket ---- */

static int make_address(const char *path, struct sockaddr_un *ret, struct error **error)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof ret->sun_path)
        return error_set(error, ERROR_INVALID, "socket '%s': the name has more than %zu bytes",
                         path, sizeof ret->sun_path - 1);
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return 0;
}

/* Refuses to replace a server that lives, and what is no socket. */
static int check_free(const char *path, struct error **error)
{
    struct sockaddr_un address;
    struct stat status;
    if (make_address(path, &address, error) < 0) return -1;
    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : error_set_errno(error, errno, "socket '%s'", path);
    if (!S_ISSOCK(status.st_mode))
        return error_set(error, ERROR_EXISTS, "socket '%s': there is something else of that name",
                         path);
    cleanup_close int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return error_set_errno(error, errno, "make a socket");
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN)
        return error_set(error, ERROR_EXISTS, "socket '%s': another server listens there", path);
    if (errno == ECONNREFUSED || errno == ENOENT) return 0;
    return error_set_errno(error, errno, "socket '%s'", path);
}

/* Under another name first: whoever finds the socket finds it listening and with its mode. */
static int listen_at(struct grpc_server *server, struct error **error)
{
    struct sockaddr_un address;
    struct stat status;
    cleanup_free char *made = format_text("%s~", server->path);
    if (!made) return error_set_memory(error);
    if (check_free(server->path, error) < 0 || make_address(made, &address, error) < 0) return -1;
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0) return error_set_errno(error, errno, "make a socket");
    unlink(made);
    if (bind(server->listener, (struct sockaddr *)&address, sizeof address) < 0)
        return error_set_errno(error, errno, "socket '%s'", server->path);
    if (chmod(made, 0600) < 0 || listen(server->listener, BACKLOG) < 0 ||
        lstat(made, &status) < 0 || rename(made, server->path) < 0) {
        error_set_errno(error, errno, "socket '%s'", server->path);
        unlink(made);
        return -1;
    }
    server->device = status.st_dev;
    server->inode = status.st_ino;
    return 0;
}

static void remove_socket(const struct grpc_server *server)
{
    struct stat status;
    if (server->inode && lstat(server->path, &status) == 0 && status.st_ino == server->inode &&
        status.st_dev == server->device)
        unlink(server->path);
}

/* ---- begin and end ---- */

static void server_free(struct grpc_server *server)
{
    remove_socket(server);
    if (server->listener >= 0) close(server->listener);
    if (server->poll >= 0) close(server->poll);
    if (server->wake >= 0) close(server->wake);
    pthread_cond_destroy(&server->output_sent);
    pthread_mutex_destroy(&server->lock);
    free(server->path);
    free(server);
}

static int begin(struct grpc_server *server, struct error **error)
{
    server->poll = epoll_create1(EPOLL_CLOEXEC);
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->poll < 0 || server->wake < 0 || watch(server, &server->wake) < 0)
        return error_set_errno(error, errno, "wait for connections");
    if (server->listener < 0 && listen_at(server, error) < 0) return -1;
    if (watch(server, &server->listener) < 0)
        return error_set_errno(error, errno, "wait for connections");
    return thread_start(&server->thread, "grpc-server", serve, server, error);
}

int grpc_server_start(struct grpc_server **ret, const char *socket_path,
                      const struct grpc_method *methods, size_t count, struct error **error)
{
    return grpc_server_start_on(ret, -1, socket_path, methods, count, error);
}

int grpc_server_start_on(struct grpc_server **ret, int listener, const char *socket_path,
                         const struct grpc_method *methods, size_t count, struct error **error)
{
    struct grpc_server *server = calloc(1, sizeof *server);
    char *path = strdup(socket_path);
    if (!server || !path) {
        if (listener >= 0) close(listener);
        free(server);
        free(path);
        return error_set_memory(error);
    }
    server->path = path;
    server->methods = methods;
    server->method_count = count;
    server->listener = listener;
    server->poll = server->wake = -1;
    LIST_INIT(&server->connections);
    STAILQ_INIT(&server->ready);
    grpc_workers_begin(&server->workers);
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->output_sent, NULL);
    if (begin(server, error) < 0) {
        grpc_workers_end(server);
        server_free(server);
        return -1;
    }
    *ret = server;
    return 0;
}

int grpc_server_listener(const struct grpc_server *server)
{
    return server->listener;
}

void grpc_server_leave_socket(struct grpc_server *server)
{
    server->inode = 0;
}

static void set_flag(struct grpc_server *server, bool *flag)
{
    pthread_mutex_lock(&server->lock);
    *flag = true;
    pthread_cond_broadcast(&server->output_sent);
    pthread_mutex_unlock(&server->lock);
    grpc_server_wake(server);
}

void grpc_server_stop(struct grpc_server *server)
{
    if (!server) return;
    set_flag(server, &server->draining);
    grpc_workers_end(server);
    set_flag(server, &server->closing);
    pthread_join(server->thread, NULL);
    server_free(server);
}
