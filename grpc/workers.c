#include "grpc/server-internal.h"

#include "base/log.h"
#include "base/thread.h"

void grpc_workers_begin(struct grpc_workers *workers)
{
    STAILQ_INIT(&workers->waiting);
    pthread_cond_init(&workers->work, NULL);
}

/* Of a call that need not begin; false: it shall. */
static bool given_up(struct grpc_call *call, enum grpc_status *ret, const char **ret_why)
{
    struct grpc_server *server = call->server;
    pthread_mutex_lock(&server->lock);
    bool cancelled = call->cancelled, draining = server->draining;
    pthread_mutex_unlock(&server->lock);
    *ret = cancelled ? GRPC_CANCELLED : draining ? GRPC_UNAVAILABLE : GRPC_DEADLINE_EXCEEDED;
    *ret_why = cancelled  ? "the call was given up"
               : draining ? "the server is being stopped"
                          : "the deadline passed before the call began";
    return cancelled || draining || grpc_call_milliseconds_left(call) == 0;
}

static void run_call(struct grpc_call *call)
{
    enum grpc_status status;
    const char *why;
    /* The handler's own reference goes with the end of the call. */
    atomic_fetch_add(&call->references, 1);
    if (given_up(call, &status, &why))
        grpc_call_end(call, status, why);
    else
        call->method->handle(call, call->method->context);
    pthread_mutex_lock(&call->server->lock);
    bool ended = call->ended;
    pthread_mutex_unlock(&call->server->lock);
    if (!ended) grpc_call_end(call, GRPC_INTERNAL, "the call was not answered");
    grpc_call_release(call);
}

static void *work(void *argument)
{
    struct grpc_server *server = argument;
    struct grpc_workers *workers = &server->workers;
    struct grpc_call *call;
    pthread_mutex_lock(&server->lock);
    for (;;) {
        while (!(call = STAILQ_FIRST(&workers->waiting)) && !workers->stopping) {
            workers->idle++;
            pthread_cond_wait(&workers->work, &server->lock);
            workers->idle--;
        }
        if (!call) break;
        STAILQ_REMOVE_HEAD(&workers->waiting, waiting);
        workers->waiting_count--;
        pthread_mutex_unlock(&server->lock);
        run_call(call);
        pthread_mutex_lock(&server->lock);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

/* With the lock held: a thread for each call that waits, as far as there may be. */
static void add_worker(struct grpc_server *server)
{
    struct grpc_workers *workers = &server->workers;
    struct error *error = NULL;
    if (workers->idle >= workers->waiting_count || workers->count == GRPC_WORKER_LIMIT) return;
    if (thread_start(&workers->threads[workers->count], "grpc-worker", work, server, &error) < 0) {
        log_warning("%s", error_message(error));
        error_free(error);
        return;
    }
    workers->count++;
}

int grpc_workers_add(struct grpc_server *server, struct grpc_call *call)
{
    struct grpc_workers *workers = &server->workers;
    int result = -1;
    pthread_mutex_lock(&server->lock);
    if (!workers->stopping && workers->waiting_count < WAITING_CALL_LIMIT) {
        STAILQ_INSERT_TAIL(&workers->waiting, call, waiting);
        workers->waiting_count++;
        add_worker(server);
        if (workers->count > 0) {
            pthread_cond_signal(&workers->work);
            result = 0;
        } else {
            STAILQ_REMOVE(&workers->waiting, call, grpc_call, waiting);
            workers->waiting_count--;
        }
    }
    pthread_mutex_unlock(&server->lock);
    return result;
}

void grpc_workers_end(struct grpc_server *server)
{
    struct grpc_workers *workers = &server->workers;
    pthread_mutex_lock(&server->lock);
    workers->stopping = true;
    pthread_cond_broadcast(&workers->work);
    unsigned count = workers->count;
    pthread_mutex_unlock(&server->lock);
    for (unsigned i = 0; i < count; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->work);
}
