#include "fetcher/transfer-internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

#define STREAMS_PER_CONNECTION 16L
#define IDLE_MS                60000 /* nothing is due: any long time will do, wake-ups interrupt it */

struct transfer_thread {
    pthread_t thread;
    CURLM *multi;
    CURLSH *share; /* TLS sessions, so that a new connection to a known host needs less */
    TAILQ_HEAD(timers, transfer_timer) timers; /* the next one due first */
    transfer_finished *finished;

    pthread_mutex_t lock; /* for what follows */
    struct transfer_task *first, **last;
    bool ending;
};

static pthread_once_t libcurl_once = PTHREAD_ONCE_INIT;
static CURLcode libcurl_state;

static void start_libcurl(void)
{
    libcurl_state = curl_global_init(CURL_GLOBAL_ALL);
}

void transfer_post(struct transfer_thread *thread, struct transfer_task *task)
{
    task->next = NULL;
    pthread_mutex_lock(&thread->lock);
    *thread->last = task;
    thread->last = &task->next;
    /* Under the lock: the thread must not end, and its handle be gone, between both. */
    if (!pthread_equal(pthread_self(), thread->thread)) curl_multi_wakeup(thread->multi);
    pthread_mutex_unlock(&thread->lock);
}

static struct transfer_task *take_tasks(struct transfer_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    struct transfer_task *taken = thread->first;
    thread->first = NULL;
    thread->last = &thread->first;
    pthread_mutex_unlock(&thread->lock);
    return taken;
}

static void run_tasks(struct transfer_thread *thread)
{
    struct transfer_task *task = take_tasks(thread);
    while (task) {
        struct transfer_task *next = task->next; /* `run` may free the task */
        task->run(task);
        task = next;
    }
}

static bool has_tasks(struct transfer_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    bool any = thread->first != NULL;
    pthread_mutex_unlock(&thread->lock);
    return any;
}

static bool may_end(struct transfer_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    bool end = thread->ending && !thread->first;
    pthread_mutex_unlock(&thread->lock);
    return end;
}

void transfer_timer_stop(struct transfer_thread *thread, struct transfer_timer *timer)
{
    if (!timer->started) return;
    TAILQ_REMOVE(&thread->timers, timer, link);
    timer->started = false;
}

void transfer_timer_start(struct transfer_thread *thread, struct transfer_timer *timer,
                          uint64_t after_ms)
{
    transfer_timer_stop(thread, timer);
    timer->due = clock_ms() + after_ms;
    timer->started = true;
    /* From the end: most timers are deadlines of the same length, so the newest is the last. */
    struct transfer_timer *before = TAILQ_LAST(&thread->timers, timers);
    while (before && before->due > timer->due)
        before = TAILQ_PREV(before, timers, link);
    if (before)
        TAILQ_INSERT_AFTER(&thread->timers, before, timer, link);
    else
        TAILQ_INSERT_HEAD(&thread->timers, timer, link);
}

static void fire_timers(struct transfer_thread *thread)
{
    uint64_t now = clock_ms();
    struct transfer_timer *timer;
    while ((timer = TAILQ_FIRST(&thread->timers)) && timer->due <= now) {
        transfer_timer_stop(thread, timer);
        timer->fire(timer);
    }
}

static int milliseconds_to_next_timer(const struct transfer_thread *thread)
{
    const struct transfer_timer *timer = TAILQ_FIRST(&thread->timers);
    uint64_t now = clock_ms();
    if (!timer || timer->due > now + IDLE_MS) return IDLE_MS;
    return timer->due > now ? (int)(timer->due - now) : 0;
}

static void collect_finished(struct transfer_thread *thread)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(thread->multi, &left))) {
        if (message->msg != CURLMSG_DONE) continue;
        CURL *easy = message->easy_handle;
        CURLcode code = message->data.result;
        void *private = NULL;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
        curl_multi_remove_handle(thread->multi, easy);
        thread->finished(private, code);
    }
}

static void *run(void *argument)
{
    struct transfer_thread *thread = argument;
    while (!may_end(thread)) {
        run_tasks(thread);
        fire_timers(thread);
        int running;
        curl_multi_perform(thread->multi, &running);
        collect_finished(thread);
        /* What a callback has just posted did not wake the poll. */
        if (has_tasks(thread)) continue;
        curl_multi_poll(thread->multi, NULL, 0, milliseconds_to_next_timer(thread), NULL);
    }
    /* Here, because TLS says goodbye on its connections, which may raise SIGPIPE. */
    curl_multi_cleanup(thread->multi);
    thread->multi = NULL;
    return NULL;
}

/* A connection's end must not end the process, and other signals are not for this thread. */
static int start(struct transfer_thread *thread)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* base/mapping.h */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* Held until pthread_create() has stored the identity that transfer_post() compares. */
    pthread_mutex_lock(&thread->lock);
    int failure = pthread_create(&thread->thread, NULL, run, thread);
    pthread_mutex_unlock(&thread->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

static void release(struct transfer_thread *thread)
{
    if (thread->multi) curl_multi_cleanup(thread->multi);
    if (thread->share) curl_share_cleanup(thread->share);
    pthread_mutex_destroy(&thread->lock);
    free(thread);
}

struct transfer_thread *transfer_thread_new(unsigned connections, transfer_finished *finished,
                                            struct error **error)
{
    pthread_once(&libcurl_once, start_libcurl);
    struct transfer_thread *thread = calloc(1, sizeof *thread);
    if (!thread || libcurl_state != CURLE_OK) {
        free(thread);
        error_set_memory(error);
        return NULL;
    }
    pthread_mutex_init(&thread->lock, NULL);
    TAILQ_INIT(&thread->timers);
    thread->last = &thread->first;
    thread->finished = finished;
    thread->multi = curl_multi_init();
    thread->share = curl_share_init();
    if (!thread->multi || !thread->share) {
        release(thread);
        error_set_memory(error);
        return NULL;
    }
    curl_share_setopt(thread->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    curl_multi_setopt(thread->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)connections);
    /* HTTP/2 would send hundreds at a time, more than some servers' connections behind bear. */
    curl_multi_setopt(thread->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, STREAMS_PER_CONNECTION);
    /* Kept open for a registry, its token server and a few hosts of redirects. */
    curl_multi_setopt(thread->multi, CURLMOPT_MAXCONNECTS, 4L * (long)connections);
    int failure = start(thread);
    if (failure) {
        release(thread);
        error_set_errno(error, failure, "start a thread");
        return NULL;
    }
    return thread;
}

void transfer_thread_free(struct transfer_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    thread->ending = true;
    curl_multi_wakeup(thread->multi);
    pthread_mutex_unlock(&thread->lock);
    pthread_join(thread->thread, NULL);
    release(thread);
}

int transfer_add(struct transfer_thread *thread, CURL *easy, struct error **error)
{
    curl_easy_setopt(easy, CURLOPT_SHARE, thread->share);
    if (curl_multi_add_handle(thread->multi, easy) != CURLM_OK) return error_set_memory(error);
    return 0;
}

void transfer_remove(struct transfer_thread *thread, CURL *easy)
{
    curl_multi_remove_handle(thread->multi, easy);
}
