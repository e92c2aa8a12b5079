#include "fuse/fuse_server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/fuse_mount.h"
#include "fuse/fuse_server-internal.h"

#define DEFAULT_THREADS 4u

/* ---- the session ---- */

static void log_libfuse(enum fuse_log_level level, const char *format, va_list arguments)
{
    char line[512];
    int length = vsnprintf(line, sizeof line, format, arguments);
    if (length < 0) return;
    line[strcspn(line, "\n")] = 0;
    log_line(level <= FUSE_LOG_WARNING ? LOG_WARNING : LOG_DEBUG, "libfuse: %s", line);
}

static void call_init(void *userdata, struct fuse_conn_info *connection)
{
    struct fuse_server *server = userdata;
    server->init(server->context, connection);
}

static int start_session(struct fuse_server *server, int *connection,
                         const struct fuse_lowlevel_ops *operations, struct error **error)
{
    char *arguments[] = { (char *)"sluice", NULL };
    struct fuse_args list = FUSE_ARGS_INIT(1, arguments);
    struct fuse_lowlevel_ops own = *operations;
    server->init = operations->init;
    own.init = call_init;
    fuse_set_log_func(log_libfuse);
    server->session = fuse_session_new(&list, &own, sizeof own, server);
    fuse_opt_free_args(&list);
    if (!server->session) return error_set(error, ERROR_SYSTEM, "libfuse cannot start a session");
    int result = fuse_session_custom_io(server->session, &fuse_connection_io, *connection);
    if (result < 0) return error_set_errno(error, -result, "libfuse cannot use the connection");
    server->connection = take_descriptor(connection);
    return 0;
}

static void set_lasting(struct fuse_server *server, const struct fuse_lasting *lasting)
{
    server->journal = lasting->journal;
    server->number = lasting->connection;
    server->resumed = server->made_up_init = lasting->negotiated != NULL;
    if (lasting->negotiated) server->negotiated = *lasting->negotiated;
}

int fuse_server_new(struct fuse_server **ret, int connection,
                    const struct fuse_lowlevel_ops *operations, void *context,
                    const struct fuse_server_options *options, struct error **error)
{
    cleanup_close int owned = connection;
    struct fuse_server *server = calloc(1, sizeof *server);
    if (!server) return error_set_memory(error);
    server->context = context;
    server->thread_count = options->threads ? options->threads : DEFAULT_THREADS;
    if (server->thread_count > FUSE_SERVER_THREADS_MAX)
        server->thread_count = FUSE_SERVER_THREADS_MAX;
    if (options->lasting) set_lasting(server, options->lasting);
    server->name = strdup(options->name);
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = -1;
    if (!server->name)
        error_set_memory(error);
    else if (server->wake < 0)
        error_set_errno(error, errno, "make an eventfd");
    else
        result = start_session(server, &owned, operations, error);
    if (result < 0) {
        fuse_server_free(server);
        return -1;
    }
    *ret = server;
    return 0;
}

void *fuse_server_context(fuse_req_t request)
{
    const struct fuse_server *server = fuse_req_userdata(request);
    return server->context;
}

void fuse_server_negotiate(struct fuse_server *server, struct fuse_conn_info *connection,
                           unsigned capabilities)
{
    connection->want =
        connection->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | capabilities);
    connection->max_background = FUSE_MOUNT_BACKGROUND;
    connection->congestion_threshold = FUSE_MOUNT_BACKGROUND;
    server->initialized = true;
}

int fuse_server_connection(const struct fuse_server *server)
{
    return server->connection;
}

const struct fuse_negotiated *fuse_server_negotiated(const struct fuse_server *server)
{
    return &server->negotiated;
}

/* 1: a request was handled, 0: the file system is unmounted or stopped, or a negative errno. */
static int serve_one(struct fuse_server *server, struct fuse_buf *request)
{
    int length = fuse_session_receive_buf(server->session, request);
    if (length == -EINTR || length == -EAGAIN) return 1;
    if (length <= 0) return length;
    fuse_connection_process(server, request, false);
    return 1;
}

/* The first request is FUSE_INIT, and the kernel sends nothing else before its answer. */
static int answer_init(struct fuse_server *server, struct error **error)
{
    while (!server->initialized && !fuse_session_exited(server->session)) {
        struct fuse_buf *request = &server->threads[0].request;
        int result = fuse_session_receive_buf(server->session, request);
        if (result == -EINTR || result == -EAGAIN) continue;
        if (result < 0)
            return error_set_errno(error, -result, "serve '%s': read from FUSE", server->name);
        if (result == 0)
            return error_set(error, ERROR_CANCELLED, "'%s' was unmounted before it could be used",
                             server->name);
        fuse_session_process_buf(server->session, request);
    }
    if (fuse_session_exited(server->session))
        return error_set(error, ERROR_UNSUPPORTED, "serve '%s': this kernel's FUSE is too old",
                         server->name);
    return 0;
}

/* ---- threads ---- */

int fuse_server_descriptor(const struct fuse_server *server)
{
    return server->wake;
}

void fuse_server_wake(struct fuse_server *server)
{
    int saved = errno;
    /* Only fails when the counter is full, and then it is awake. */
    eventfd_write(server->wake, 1);
    errno = saved;
}

static void *run_thread(void *context)
{
    struct server_thread *thread = context;
    fuse_connection_enter(thread);
    while (!fuse_session_exited(thread->server->session)) {
        int result = serve_one(thread->server, &thread->request);
        if (result > 0) continue;
        thread->failure = -result;
        break;
    }
    fuse_connection_enter(NULL);
    atomic_store(&thread->ended, true);
    fuse_server_wake(thread->server);
    return NULL;
}

static void do_nothing(int number)
{
    (void)number;
}

/* Threads sleep in read(2), where a signal is all that reaches them (a poll before each read
 * would cost every request, and wake all threads for each). Sent to these threads only. */
static int wake_signal(void)
{
    return SIGRTMAX - 3;
}

/* Other signals are for the caller's thread. */
static int start_threads(struct fuse_server *server, struct error **error)
{
    struct sigaction action = { .sa_handler = do_nothing };
    sigaction(wake_signal(), &action, NULL);
    sigset_t others, before;
    sigfillset(&others);
    sigdelset(&others, wake_signal());
    sigdelset(&others, SIGBUS); /* base/mapping.h */
    pthread_sigmask(SIG_SETMASK, &others, &before);
    int number = 0;
    for (unsigned i = 0; i < server->thread_count && !number; i++) {
        struct server_thread *thread = &server->threads[i];
        thread->server = server;
        number = pthread_create(&thread->thread, NULL, run_thread, thread);
        thread->running = !number;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number) return error_set_errno(error, number, "serve '%s': start a thread", server->name);
    return 0;
}

int fuse_server_start(struct fuse_server *server, struct error **error)
{
    if (answer_init(server, error) < 0) return -1;
    server->journalled = server->journal != NULL;
    if (server->resumed && fuse_connection_resume(server, error) < 0) return -1;
    return start_threads(server, error);
}

/* A signal that comes just before the thread falls asleep is lost: it is sent until it works. */
static void join_thread(struct server_thread *thread)
{
    while (!atomic_load(&thread->ended)) {
        pthread_kill(thread->thread, wake_signal());
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    pthread_join(thread->thread, NULL);
    thread->running = false;
}

int fuse_server_stop(struct fuse_server *server, struct error **error)
{
    int failure = 0;
    fuse_session_exit(server->session);
    for (unsigned i = 0; i < server->thread_count; i++) {
        struct server_thread *thread = &server->threads[i];
        if (thread->running) join_thread(thread);
        if (!failure) failure = thread->failure;
    }
    if (!failure) return 0;
    return error_set_errno(error, failure, "serve '%s': read from FUSE", server->name);
}

void fuse_server_free(struct fuse_server *server)
{
    if (!server) return;
    if (server->session) {
        fuse_server_stop(server, NULL);
        /* What was never begun another one may go on with. */
        if (server->journalled) request_journal_drop(server->journal, server->number);
        /* Closes the connection. */
        fuse_session_destroy(server->session);
    }
    for (unsigned i = 0; i < server->thread_count; i++)
        free(server->threads[i].request.mem);
    if (server->wake >= 0) close(server->wake);
    free(server->name);
    free(server);
}
