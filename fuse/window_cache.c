/*
 * gzip windows: groups of them, compressed, in memory while runs use them and
 * for a while after, on disk as blobs of the cache, else from the registry.
 * Groups are short and their chunks neighbours, so those beside one come along.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/run-internal.h"
#include "fuse/window_cache-internal.h"
#include "fuse/worker_pool-internal.h"

/* Groups that come together, and how many bytes of them at the most: next to the chunks that they
 * are for they are few. */
#define GROUPS_TOGETHER 4u
#define TOGETHER_LENGTH (128u << 10)

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

static void take_body(struct window_group_entry *entry, struct buffer *body)
{
    entry->body = *body;
    *body = (struct buffer){ 0 };
    memory_charge(&entry->device->path->memory, entry->body.length);
}

static void drop_body(struct data_path *path, struct buffer *body)
{
    memory_release(&path->memory, body->length);
    buffer_free(body);
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
static void load(struct window_group_entry *entry);

/* Those that came with it are on the disk, or will not be. */
static void load_followers(const struct window_group_entry *leader)
{
    struct window_group_entry *entry;
    TAILQ_FOREACH(entry, &leader->device->path->windows, link)
    if (entry->state == WINDOWS_FOLLOWING && entry->leader == leader) load(entry);
}

static const uint8_t *bytes_of_group(const struct layer_device *device, const struct buffer *body,
                                     uint32_t first, uint32_t group)
{
    const struct window_group *groups = device->table->groups;
    return body->data + (groups[group].offset - groups[first].offset);
}

static bool is_intact(const struct layer_device *device, uint32_t group, const uint8_t *data)
{
    struct digest digest;
    digest_of(data, device->table->groups[group].length, &digest);
    return digest_equal(&digest, &device->table->groups[group].digest);
}

/* What is wrong of a neighbour is asked for again by who needs it. */
static void keep_groups(const struct layer_device *device, const struct buffer *body,
                        uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++) {
        const struct window_group *group = &device->table->groups[i];
        const uint8_t *data = bytes_of_group(device, body, first, i);
        struct error *error = NULL;
        if (!is_intact(device, i, data)) continue;
        if (cache_put_blob(device->path->cache, &group->digest, data, group->length, &error) < 0)
            log_debug("%s", error_message(error)); /* they are fetched again some day */
        error_free(error);
    }
}

static void was_damaged(struct window_group_entry *entry, struct actions *actions)
{
    struct layer_device *device = entry->device;
    struct data_path *path = device->path;
    const struct window_group *group = group_of(entry);
    atomic_fetch_add(&path->counters.chunks_damaged, 1);
    registry_report_damage(path->client, &device->windows_digest, group->offset, group->length);
    drop_body(path, &entry->body);
    load_followers(entry);
    if (++entry->attempts >= DAMAGED_ATTEMPTS || device->closing || !fetch(entry, actions))
        entry_failed(entry, "what the registry gave three times has not the digest of the index",
                     actions);
}

/* Who waits comes before the disk. The entry may be gone as soon as it is ready. */
static void came_intact(struct window_group_entry *entry, struct buffer *own)
{
    struct layer_device *device = entry->device;
    struct data_path *path = device->path;
    uint32_t first = entry->asked_first, count = entry->asked_count;
    struct buffer body = entry->body;
    struct actions actions;
    data_path_enter(path, &actions);
    entry->body = (struct buffer){ 0 };
    entry->users++; /* it stays for those that follow */
    take_data(entry, own);
    entry_ready(entry, &actions);
    data_path_leave(path, &actions);
    keep_groups(device, &body, first, count);
    data_path_enter(path, &actions);
    drop_body(path, &body);
    load_followers(entry);
    window_group_leave(entry);
    device_idle(device);
    data_path_leave(path, &actions);
}

static void check_job(struct job *job)
{
    struct window_group_entry *entry = entry_of(job);
    struct layer_device *device = entry->device;
    const uint8_t *data = bytes_of_group(device, &entry->body, entry->asked_first, entry->group);
    struct buffer own = { 0 };
    if (is_intact(device, entry->group, data) &&
        buffer_append(&own, data, group_of(entry)->length) == 0) {
        came_intact(entry, &own);
        return;
    }
    buffer_free(&own);
    struct actions actions;
    data_path_enter(device->path, &actions);
    was_damaged(entry, &actions);
    device_idle(device);
    data_path_leave(device->path, &actions);
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
        take_body(entry, body);
        entry->state = WINDOWS_CHECKING;
        entry->job.work = check_job;
        worker_pool_add(path->workers, &entry->job, true);
    } else {
        load_followers(entry);
        entry_failed(entry, error_message(error), actions);
        device_idle(device);
        error_free(error);
    }
}

static const struct range_receiver receiver = { .done = windows_arrived };

static uint64_t asked_length(const struct window_group_entry *entry, uint32_t first, uint32_t last)
{
    const struct window_group *groups = entry->device->table->groups;
    return groups[last].offset + groups[last].length - groups[first].offset;
}

/* Whether group `i` is followed by the next one, as far as that may come along. */
static bool may_join(const struct window_group_entry *entry, uint32_t i, uint32_t first,
                     uint32_t last)
{
    const struct window_group *groups = entry->device->table->groups;
    return groups[i].offset + groups[i].length == groups[i + 1].offset &&
           asked_length(entry, first, last) <= TOGETHER_LENGTH;
}

/* Once it was wrong it is asked for alone. */
static void choose_groups(struct window_group_entry *entry)
{
    uint32_t first = entry->group, last = first;
    uint32_t least = first - first % GROUPS_TOGETHER, most = least + GROUPS_TOGETHER - 1;
    bool alone = entry->attempts > 0 || !entry->device->path->neighbours;
    if (most >= entry->device->table->group_count) most = entry->device->table->group_count - 1;
    while (!alone && last < most && may_join(entry, last, first, last + 1))
        last++;
    while (!alone && first > least && may_join(entry, first - 1, first - 1, last))
        first--;
    entry->asked_first = first;
    entry->asked_count = last - first + 1;
}

static bool fetch(struct window_group_entry *entry, struct actions *actions)
{
    choose_groups(entry);
    uint32_t first = entry->asked_first, last = first + entry->asked_count - 1;
    entry->request = range_request_new(
        entry->device, &entry->device->windows_digest, entry->device->table->groups[first].offset,
        (size_t)asked_length(entry, first, last), &receiver, entry, wanted_until(entry), actions);
    if (!entry->request) return false;
    device_busy(entry->device);
    entry->state = WINDOWS_FETCHING;
    return true;
}

/* It comes with another group: that is waited for, and then looked for on the disk. */
static bool follow(struct window_group_entry *entry)
{
    struct window_group_entry *other;
    TAILQ_FOREACH(other, &entry->device->path->windows, link)
    {
        bool coming = other->state == WINDOWS_FETCHING || other->state == WINDOWS_CHECKING;
        if (!coming || other->device != entry->device || entry->group < other->asked_first ||
            entry->group - other->asked_first >= other->asked_count)
            continue;
        entry->state = WINDOWS_FOLLOWING;
        entry->leader = other;
        return true;
    }
    return false;
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
    } else if (device->closing || (!follow(entry) && !fetch(entry, &actions))) {
        entry_failed(entry, "out of memory", &actions);
    }
    device_idle(device);
    data_path_leave(path, &actions);
}

static void load(struct window_group_entry *entry)
{
    entry->state = WINDOWS_LOADING;
    entry->job.work = load_job;
    device_busy(entry->device);
    worker_pool_add(entry->device->path->workers, &entry->job, true);
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
        load(entry);
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
        bool fetching = entry->state == WINDOWS_FETCHING;
        if (entry->device != device || (!fetching && entry->state != WINDOWS_FOLLOWING)) continue;
        if (fetching) range_request_abandon(entry->request);
        /* Whoever still uses it ends because the device closes. */
        TAILQ_REMOVE(&path->windows, entry, link);
        entry->state = WINDOWS_FAILED;
        if (entry->users == 0) entry_free(entry);
        if (fetching) device_idle(device);
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
