/*
 * gzip windows: groups of them, compressed, in memory while runs use them and
 * for a while after, on disk as blobs of the cache, else from the registry.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"

static struct window_group_entry *entry_of(struct job *job)
{
    return (struct window_group_entry *)(void *)((char *)job -
                                                 offsetof(struct window_group_entry, job));
}

static const struct window_group *group_of(const struct window_group_entry *entry)
{
    return &entry->device->table->groups[entry->group];
}

/* ---- the entry and its memory ---- */

static void take_data(struct window_group_entry *entry, struct buffer *data)
{
    struct data_path *path = entry->device->path;
    entry->data = *data;
    *data = (struct buffer){ 0 };
    memory_charge(&path->memory, entry->data.length);
    path->windows_bytes += entry->data.length;
}

static void drop_data(struct window_group_entry *entry)
{
    struct data_path *path = entry->device->path;
    memory_release(&path->memory, entry->data.length);
    path->windows_bytes -= entry->data.length;
    buffer_free(&entry->data);
}

static void entry_free(struct window_group_entry *entry)
{
    drop_data(entry);
    free(entry->failure);
    free(entry);
}

/* The least recently used ones go first; those in use stay. */
static void evict(struct data_path *path)
{
    struct window_group_entry *entry, *next;
    for (entry = TAILQ_FIRST(&path->windows); entry && path->windows_bytes > path->memory.limit / 8;
         entry = next) {
        next = TAILQ_NEXT(entry, link);
        if (entry->users > 0 || entry->state != WINDOWS_READY) continue;
        TAILQ_REMOVE(&path->windows, entry, link);
        entry_free(entry);
    }
}

/* ---- the ways it can end ---- */

/* The runs that have all but this. Continuing one run ends no other. */
static void continue_runs(struct window_group_entry *entry, struct actions *actions)
{
    struct run *run, *next;
    entry->users++; /* it stays while runs end */
    for (run = TAILQ_FIRST(&entry->device->path->runs); run; run = next) {
        next = TAILQ_NEXT(run, link);
        if (run->windows == entry) run_continue(run, actions);
    }
    window_group_leave(entry);
}

static void entry_ready(struct window_group_entry *entry, struct actions *actions)
{
    entry->state = WINDOWS_READY;
    continue_runs(entry, actions);
    evict(entry->device->path);
}

/* Leaves the list, so that the next run asks anew; the runs that use it see the failure. */
static void entry_failed(struct window_group_entry *entry, const char *reason,
                         struct actions *actions)
{
    size_t size = strlen(reason) + sizeof "gzip windows: ";
    TAILQ_REMOVE(&entry->device->path->windows, entry, link);
    drop_data(entry);
    entry->failure = malloc(size);
    if (entry->failure) snprintf(entry->failure, size, "gzip windows: %s", reason);
    entry->state = WINDOWS_FAILED;
    continue_runs(entry, actions);
}

/* ---- from the registry ---- */

static uint64_t wanted_until(const struct window_group_entry *entry)
{
    const struct run *run;
    uint64_t until = 0;
    TAILQ_FOREACH(run, &entry->device->path->runs, link)
    {
        uint64_t wanted = run->windows == entry ? run_wanted_until(run) : 0;
        if (wanted > until) until = wanted;
    }
    return until;
}

static bool fetch(struct window_group_entry *entry, struct actions *actions);

static void check_job(struct job *job)
{
    struct window_group_entry *entry = entry_of(job);
    struct layer_device *device = entry->device;
    struct data_path *path = device->path;
    const struct window_group *group = group_of(entry);
    struct digest digest;
    digest_of(entry->data.data, entry->data.length, &digest);
    bool intact = digest_equal(&digest, &group->digest);
    cleanup_error struct error *error = NULL;
    if (intact &&
        cache_put_blob(path->cache, &digest, entry->data.data, entry->data.length, &error) < 0)
        log_debug("%s", error_message(error)); /* they are fetched again some day */
    struct actions actions;
    data_path_enter(path, &actions);
    if (intact) {
        entry_ready(entry, &actions);
    } else {
        atomic_fetch_add(&path->counters.chunks_damaged, 1);
        registry_report_damage(path->client, &device->windows_digest, group->offset, group->length);
        drop_data(entry);
        if (++entry->attempts >= DAMAGED_ATTEMPTS || device->closing || !fetch(entry, &actions))
            entry_failed(entry,
                         "what the registry gave three times has not the digest of the index",
                         &actions);
    }
    device_idle(device);
    data_path_leave(path, &actions);
}

static void windows_arrived(void *owner, struct buffer *body, struct error *error,
                            struct actions *actions)
{
    struct window_group_entry *entry = owner;
    struct layer_device *device = entry->device;
    struct data_path *path = device->path;
    entry->had_its_time = error && range_request_had_its_time(entry->request);
    entry->request = NULL;
    if (!error) {
        atomic_fetch_add(&path->counters.window_bytes_fetched, body->length);
        take_data(entry, body);
        entry->state = WINDOWS_CHECKING;
        entry->job.work = check_job;
        worker_pool_add(path->workers, &entry->job, true);
    } else {
        entry_failed(entry, error_message(error), actions);
        device_idle(device);
        error_free(error);
    }
}

static const struct range_receiver receiver = { .done = windows_arrived };

static bool fetch(struct window_group_entry *entry, struct actions *actions)
{
    const struct window_group *group = group_of(entry);
    entry->request =
        range_request_new(entry->device, &entry->device->windows_digest, group->offset,
                          group->length, &receiver, entry, wanted_until(entry), actions);
    if (!entry->request) return false;
    device_busy(entry->device);
    entry->state = WINDOWS_FETCHING;
    return true;
}

/* ---- from the disk ---- */

static void load_job(struct job *job)
{
    struct window_group_entry *entry = entry_of(job);
    struct layer_device *device = entry->device;
    struct data_path *path = device->path;
    const struct window_group *group = group_of(entry);
    cleanup_buffer struct buffer data = { 0 };
    bool found = cache_get_blob(path->cache, &group->digest, group->length, &data, NULL) == 0 &&
                 data.length == group->length;
    struct actions actions;
    data_path_enter(path, &actions);
    if (found) {
        take_data(entry, &data);
        entry_ready(entry, &actions);
    } else if (device->closing || !fetch(entry, &actions)) {
        entry_failed(entry, "out of memory", &actions);
    }
    device_idle(device);
    data_path_leave(path, &actions);
}

/* ---- use ---- */

struct window_group_entry *window_group_use(struct layer_device *device, uint32_t group)
{
    struct data_path *path = device->path;
    struct window_group_entry *entry;
    TAILQ_FOREACH(entry, &path->windows, link)
    if (entry->device == device && entry->group == group) break;
    if (entry) {
        TAILQ_REMOVE(&path->windows, entry, link);
    } else {
        entry = calloc(1, sizeof *entry);
        if (!entry) return NULL;
        entry->device = device;
        entry->group = group;
        entry->state = WINDOWS_LOADING;
        entry->job.work = load_job;
        device_busy(device);
        worker_pool_add(path->workers, &entry->job, true);
    }
    TAILQ_INSERT_TAIL(&path->windows, entry, link);
    entry->users++;
    return entry;
}

void window_group_leave(struct window_group_entry *entry)
{
    if (--entry->users > 0) return;
    if (entry->state == WINDOWS_FAILED) entry_free(entry);
}

void window_group_close_device(struct layer_device *device)
{
    struct data_path *path = device->path;
    struct window_group_entry *entry, *next;
    for (entry = TAILQ_FIRST(&path->windows); entry; entry = next) {
        next = TAILQ_NEXT(entry, link);
        if (entry->device != device || entry->state != WINDOWS_FETCHING) continue;
        range_request_abandon(entry->request);
        /* Whoever still uses it ends because the device closes. */
        TAILQ_REMOVE(&path->windows, entry, link);
        entry->state = WINDOWS_FAILED;
        if (entry->users == 0) entry_free(entry);
        device_idle(device);
    }
}

void window_group_forget_device(struct layer_device *device)
{
    struct data_path *path = device->path;
    struct window_group_entry *entry, *next;
    for (entry = TAILQ_FIRST(&path->windows); entry; entry = next) {
        next = TAILQ_NEXT(entry, link);
        if (entry->device != device) continue;
        TAILQ_REMOVE(&path->windows, entry, link);
        entry_free(entry);
    }
}
