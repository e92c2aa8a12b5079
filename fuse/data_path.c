/* What all devices of a server share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/worker_pool-internal.h"

#define MEMORY_LIMIT     (32u << 20)
#define READ_TIMEOUT_MS  60000u
#define RANGES_IN_FLIGHT 8u
#define WORKERS_MAX      4

/* ---- entering and leaving ---- */

void data_path_enter(struct data_path *path, struct actions *actions)
{
    STAILQ_INIT(&actions->answers);
    STAILQ_INIT(&actions->failures);
    STAILQ_INIT(&actions->expirations);
    STAILQ_INIT(&actions->loads);
    STAILQ_INIT(&actions->checks);
    STAILQ_INIT(&actions->stores);
    STAILQ_INIT(&actions->requests);
    STAILQ_INIT(&actions->dead_runs);
    STAILQ_INIT(&actions->dead_bytes);
    STAILQ_INIT(&actions->reports);
    STAILQ_INIT(&actions->returns);
    pthread_mutex_lock(&path->lock);
}

/* Takes the first of a list; each is out of the list before it is worked on, for that may free it.
 */
#define TAKE(list, variable)               \
    ((variable = STAILQ_FIRST(list)) && ({ \
         STAILQ_REMOVE_HEAD(list, action); \
         true;                             \
     }))

static void free_dead(struct actions *actions)
{
    struct run *run;
    struct chunk_bytes *bytes;
    while (TAKE(&actions->dead_runs, run))
        run_free(run);
    while (TAKE(&actions->dead_bytes, bytes)) {
        free(bytes->data);
        free(bytes);
    }
}

/* Readers first: the rest can wait for them. */
static void perform(struct actions *actions)
{
    struct device_read *read;
    struct active_chunk *chunk;
    struct report *report;
    while (TAKE(&actions->answers, read))
        read_answer(read);
    while (TAKE(&actions->failures, read))
        read_answer_failure(read);
    while (TAKE(&actions->expirations, read))
        read_answer_expired(read);
    range_requests_send(&actions->requests);
    while (TAKE(&actions->loads, read))
        read_load(read);
    while (TAKE(&actions->checks, chunk))
        chunk_check(chunk);
    while (TAKE(&actions->stores, chunk))
        chunk_store(chunk);
    while (TAKE(&actions->reports, report)) {
        if (report->warning)
            log_warning("%s", report->text);
        else
            log_error("%s", report->text);
        free(report->text);
        free(report);
    }
    free_dead(actions);
}

/* What is on this node goes before what has to be fetched. */
static void start_all(struct data_path *path, struct actions *actions)
{
    read_start_loads(path, actions);
    chunk_start_checks(path, actions);
    supply_take(path, actions);
    run_start_wanted(path, actions);
    supply_prepare_calls(&actions->returns);
}

void data_path_leave(struct data_path *path, struct actions *actions)
{
    start_all(path, actions);
    pthread_mutex_unlock(&path->lock);
    perform(actions);
    while (!STAILQ_EMPTY(&actions->returns)) {
        supply_call(&actions->returns);
        pthread_mutex_lock(&path->lock);
        supply_called(path, &actions->returns);
        start_all(path, actions); /* a supply may name more now */
        pthread_mutex_unlock(&path->lock);
        perform(actions);
    }
}

/* Takes `text`. */
static void note_report(struct actions *actions, char *text, bool warning)
{
    struct report *report = text ? malloc(sizeof *report) : NULL;
    if (!report) {
        free(text);
        return;
    }
    report->warning = warning;
    report->text = text;
    STAILQ_INSERT_TAIL(&actions->reports, report, action);
}

/* Takes `text`. */
static void note_error(struct noted_error *noted, char *text)
{
    if (!text) return;
    free(noted->text);
    noted->text = text;
    noted->at = clock_ms();
}

static char *tell_error(const struct noted_error *noted, uint64_t *ret_age_ms)
{
    if (ret_age_ms) *ret_age_ms = noted->text ? clock_ms() - noted->at : 0;
    return noted->text ? strdup(noted->text) : NULL;
}

void device_report(struct layer_device *device, struct actions *actions, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    note_report(actions, strdup(text), false);
    note_error(&device->last_error, strdup(text));
    note_error(&device->path->last_error, text);
}

void data_path_mention(struct actions *actions, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) >= 0) note_report(actions, text, true);
    va_end(arguments);
}

void device_busy(struct layer_device *device)
{
    device->busy++;
}

void device_idle(struct layer_device *device)
{
    if (--device->busy == 0) pthread_cond_broadcast(&device->path->changed);
}

/* ---- the timer ---- */

void data_path_wake_at(struct data_path *path, uint64_t milliseconds)
{
    if (path->wake_at && path->wake_at <= milliseconds) return;
    path->wake_at = milliseconds;
    pthread_cond_signal(&path->timer_wake);
}

/* 0: never. */
static uint64_t next_due(const struct data_path *path)
{
    const struct device_read *read = TAILQ_FIRST(&path->parked);
    if (!read) return path->wake_at;
    return path->wake_at && path->wake_at < read->deadline ? path->wake_at : read->deadline;
}

static void wait_for_timer(struct data_path *path, uint64_t due)
{
    if (due)
        clock_wait(&path->timer_wake, &path->lock, due);
    else
        pthread_cond_wait(&path->timer_wake, &path->lock);
}

static void *timer_loop(void *argument)
{
    struct data_path *path = argument;
    struct actions actions;
    data_path_enter(path, &actions);
    while (!path->ending) {
        uint64_t due = next_due(path), now = clock_ms();
        if (!due || due > now) {
            wait_for_timer(path, due);
        } else {
            if (path->wake_at <= now) path->wake_at = 0;
            if (!TAILQ_EMPTY(&path->parked)) read_expire_due(path, &actions);
            data_path_leave(path, &actions);
            data_path_enter(path, &actions);
        }
    }
    data_path_leave(path, &actions);
    return NULL;
}

/* ---- making and ending ---- */

static void apply_options(struct data_path *path, const struct data_path_options *options,
                          unsigned *ret_workers)
{
    struct data_path_options given = options ? *options : (struct data_path_options){ 0 };
    path->memory.limit = given.memory_limit ? given.memory_limit : MEMORY_LIMIT;
    path->read_timeout_ms = given.read_timeout_ms ? given.read_timeout_ms : READ_TIMEOUT_MS;
    path->ranges_limit = given.ranges_in_flight ? given.ranges_in_flight : RANGES_IN_FLIGHT;
    path->neighbours = given.neighbours;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (cores < 1) cores = 1;
    if (cores > WORKERS_MAX) cores = WORKERS_MAX;
    *ret_workers = given.workers ? given.workers : (unsigned)cores;
}

int data_path_new(struct data_path **ret, struct registry_client *client, struct cache *cache,
                  const struct data_path_options *options, struct error **error)
{
    struct data_path *path = calloc(1, sizeof *path);
    if (!path) return error_set_memory(error);
    unsigned workers;
    path->client = client;
    path->cache = cache;
    apply_options(path, options, &workers);
    pthread_mutex_init(&path->lock, NULL);
    pthread_cond_init(&path->changed, NULL);
    clock_condition_init(&path->timer_wake);
    for (unsigned i = 0; i < URGENCIES; i++)
        TAILQ_INIT(&path->wanted[i]);
    for (unsigned i = 0; i < SUPPLY_KINDS; i++)
        LIST_INIT(&path->supplies[i]);
    atomic_init(&path->demanded_at, clock_ms());
    TAILQ_INIT(&path->checks);
    TAILQ_INIT(&path->kept);
    TAILQ_INIT(&path->loads);
    TAILQ_INIT(&path->parked);
    TAILQ_INIT(&path->runs);
    TAILQ_INIT(&path->windows);
    if (supply_init_ahead(path, error) < 0 || worker_pool_new(&path->workers, workers, error) < 0 ||
        thread_start(&path->timer, "sluice-timer", timer_loop, path, error) < 0) {
        data_path_free(path);
        return -1;
    }
    path->timer_started = true;
    *ret = path;
    return 0;
}

void data_path_free(struct data_path *path)
{
    if (!path) return;
    pthread_mutex_lock(&path->lock);
    path->ending = true;
    pthread_cond_signal(&path->timer_wake);
    pthread_mutex_unlock(&path->lock);
    if (path->timer_started) pthread_join(path->timer, NULL);
    worker_pool_free(path->workers);
    supply_remove_all(path);
    supply_free_ahead(path);
    pthread_cond_destroy(&path->timer_wake);
    pthread_cond_destroy(&path->changed);
    pthread_mutex_destroy(&path->lock);
    free(path->last_error.text);
    free(path);
}

void data_path_statistics(struct data_path *path, struct data_path_statistics *ret)
{
    const struct path_counters *counters = &path->counters;
    const struct device_reader *all = &path->all;
    *ret = (struct data_path_statistics){
        .chunks_fetched = counters->chunks_fetched,
        .bytes_fetched = counters->bytes_fetched,
        .bytes_decoded = counters->bytes_decoded,
        .reads_hit = all->reads_hit,
        .reads_missed = all->reads_missed,
        .bytes_served = all->bytes_served,
        .chunks_in_flight = counters->chunks_in_flight,
        .reads_waiting = all->reads_waiting,
        .oldest_wait_ms = data_path_oldest_wait_ms(path, NULL),
        .window_bytes_fetched = counters->window_bytes_fetched,
        .chunks_damaged = counters->chunks_damaged,
        .read_errors = all->errors,
        .store_errors = counters->store_errors,
    };
}

void data_path_pass(struct data_path *path)
{
    pthread_mutex_lock(&path->lock);
    pthread_mutex_unlock(&path->lock);
}

uint64_t data_path_idle_ms(struct data_path *path)
{
    uint64_t since = atomic_load_explicit(&path->demanded_at, memory_order_relaxed);
    uint64_t now = clock_ms();
    return now > since ? now - since : 0;
}

void data_path_note_error(struct data_path *path, const char *reason)
{
    char *text = strdup(reason);
    if (!text) return;
    pthread_mutex_lock(&path->lock);
    note_error(&path->last_error, text);
    pthread_mutex_unlock(&path->lock);
}

char *data_path_last_error(struct data_path *path, uint64_t *ret_age_ms)
{
    pthread_mutex_lock(&path->lock);
    char *text = tell_error(&path->last_error, ret_age_ms);
    pthread_mutex_unlock(&path->lock);
    return text;
}

char *layer_device_last_error(struct layer_device *device, uint64_t *ret_age_ms)
{
    pthread_mutex_lock(&device->path->lock);
    char *text = tell_error(&device->last_error, ret_age_ms);
    pthread_mutex_unlock(&device->path->lock);
    return text;
}

uint64_t data_path_oldest_wait_ms(struct data_path *path, const struct device_reader *reader)
{
    const struct device_read *read;
    uint64_t waited = 0;
    if (atomic_load(reader ? &reader->reads_waiting : &path->all.reads_waiting) == 0) return 0;
    pthread_mutex_lock(&path->lock);
    TAILQ_FOREACH(read, &path->parked, parked)
    {
        if (reader && read->reader != reader) continue;
        waited = read_has_waited(read);
        break;
    }
    pthread_mutex_unlock(&path->lock);
    return waited;
}
