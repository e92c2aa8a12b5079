#include <stddef.h>

#include "base/log.h"
#include "fuse/prefetch-internal.h"

#define REQUESTS_AT_ONCE 3u

static struct window_range *range_of(struct job *job)
{
    return (struct window_range *)(void *)((char *)job - offsetof(struct window_range, job));
}

static void settle(struct window_range *range)
{
    range->settled = true;
    range->owner->under_way--;
    buffer_free(&range->body);
    device_idle(range->device);
    supply_look_again(range->owner->path);
    pthread_cond_broadcast(&range->owner->path->changed);
}

static void start_next(struct window_prefetch *windows, struct actions *actions);

/* ---- what came ---- */

static void keep_group(const struct window_range *range, uint32_t position)
{
    const struct layer_device *device = range->device;
    const struct window_group *group = &device->table->groups[position];
    const uint8_t *data =
        range->body.data + (group->offset - device->table->groups[range->first].offset);
    struct digest digest;
    struct error *error = NULL;
    digest_of(data, group->length, &digest);
    if (!digest_equal(&digest, &group->digest)) {
        /* Who needs it asks for it once more. */
        registry_report_damage(device->path->client, &device->windows_digest, group->offset,
                               group->length);
        return;
    }
    if (cache_put_blob(device->path->cache, &digest, data, group->length, &error) < 0)
        log_debug("%s", error_message(error));
    error_free(error);
}

static void keep_groups(struct job *job)
{
    struct window_range *range = range_of(job);
    struct window_prefetch *windows = range->owner;
    struct data_path *path = windows->path;
    struct actions actions;
    for (uint32_t i = 0; i < range->count; i++)
        keep_group(range, range->first + i);
    data_path_enter(path, &actions);
    settle(range);
    start_next(windows, &actions);
    data_path_leave(path, &actions);
}

static void range_came(void *owner, struct buffer *body, struct error *error,
                       struct actions *actions)
{
    struct window_range *range = owner;
    struct window_prefetch *windows = range->owner;
    range->request = NULL;
    if (!error) {
        atomic_fetch_add(&windows->path->counters.window_bytes_fetched, body->length);
        range->body = *body;
        *body = (struct buffer){ 0 };
        range->job.work = keep_groups;
        worker_pool_add(windows->path->workers, &range->job, true);
        return;
    }
    error_free(error);
    settle(range);
    start_next(windows, actions);
}

/* ---- asking ---- */

static const struct range_receiver receiver = { .done = range_came };

static void start(struct window_range *range, struct actions *actions)
{
    const struct window_group *groups = range->device->table->groups;
    const struct window_group *last = &groups[range->first + range->count - 1];
    uint64_t offset = groups[range->first].offset;
    range->owner->under_way++;
    device_busy(range->device);
    range->request = range_request_new(range->device, &range->device->windows_digest, offset,
                                       (size_t)(last->offset + last->length - offset), &receiver,
                                       range, 0, actions);
    if (!range->request) settle(range);
}

static void start_next(struct window_prefetch *windows, struct actions *actions)
{
    while (!windows->stop && windows->next < windows->count &&
           windows->under_way < REQUESTS_AT_ONCE)
        start(&windows->ranges[windows->next++], actions);
}

void window_prefetch_start(struct window_prefetch *windows, struct data_path *path,
                           const struct prefetch_plan *plan)
{
    struct actions actions;
    *windows = (struct window_prefetch){ .path = path,
                                         .ranges = plan->ranges,
                                         .count = plan->range_count };
    for (size_t i = 0; i < plan->range_count; i++)
        plan->ranges[i].owner = windows;
    data_path_enter(path, &actions);
    start_next(windows, &actions);
    data_path_leave(path, &actions);
}

void window_prefetch_end(struct window_prefetch *windows)
{
    struct data_path *path = windows->path;
    struct actions actions;
    data_path_enter(path, &actions);
    windows->stop = true;
    for (size_t i = 0; i < windows->next; i++) {
        struct window_range *range = &windows->ranges[i];
        if (!range->request) continue;
        range_request_abandon(range->request);
        range->request = NULL;
        settle(range);
    }
    while (windows->under_way > 0) /* the workers have them */
        pthread_cond_wait(&path->changed, &path->lock);
    data_path_leave(path, &actions);
}
