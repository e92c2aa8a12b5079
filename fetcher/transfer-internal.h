/*
 * The thread that runs libcurl's multi interface. It alone touches libcurl
 * handles; other threads hand it tasks. Between tasks, timers and sockets it
 * sleeps in curl_multi_poll(), so nothing waits for a tick.
 */
#ifndef SLUICE_FETCHER_TRANSFER_INTERNAL_H
#define SLUICE_FETCHER_TRANSFER_INTERNAL_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/error.h"

struct transfer_thread;

/* Lives inside what it works on, so that handing it over cannot fail. It may be
 * posted again once `run` was called. */
struct transfer_task {
    void (*run)(struct transfer_task *task);
    struct transfer_task *next;
};

/* Touched on the thread only. A zeroed struct with `fire` set is a stopped timer. */
struct transfer_timer {
    TAILQ_ENTRY(transfer_timer) link;
    void (*fire)(struct transfer_timer *timer);
    uint64_t due; /* clock_ms() */
    bool started;
};

/* The member `field` of a `type` is at `pointer`: the whole. */
#define container_of(pointer, type, field) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, field)))

/* Told about a handle that has come to its end, with its CURLOPT_PRIVATE; it is free for cleanup.
 */
typedef void transfer_finished(void *private, CURLcode code);

/* `connections`: per host at the most. */
struct transfer_thread *transfer_thread_new(unsigned connections, transfer_finished *finished,
                                            struct error **error);
/* Runs the tasks that are still queued, then ends the thread. No timer may be started, nothing be
 * in transfer. */
void transfer_thread_free(struct transfer_thread *thread);

/* From any thread. Tasks run in the order they were posted. */
void transfer_post(struct transfer_thread *thread, struct transfer_task *task);

/* On the thread only. Starting a started timer moves it. */
void transfer_timer_start(struct transfer_thread *thread, struct transfer_timer *timer,
                          uint64_t after_ms);
void transfer_timer_stop(struct transfer_thread *thread, struct transfer_timer *timer);

/* On the thread only. Runs a prepared easy handle; what was removed does not finish. */
int transfer_add(struct transfer_thread *thread, CURL *easy, struct error **error);
void transfer_remove(struct transfer_thread *thread, CURL *easy);

#endif
