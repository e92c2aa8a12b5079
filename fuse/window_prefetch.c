#include <stddef.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "fuse/prefetch-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/worker_pool-internal.h"

#define REQUESTS_AT_ONCE 3u
/* Bytes after which no further range joins a request: chunks wait until all of it is here. */
#define REQUEST_LENGTH (1u << 20)

static struct window_range *range_of(struct job *job)
{
    return (struct window_range *)(void *)((char *)job - offsetof(struct window_range, job));
}

/* The supply goes on when all of a request is there, so that what it names can be asked for
 * together, too. */
static void settle(struct window_range *range)
{
    struct window_prefetch *windows = range->owner;
    range->settled = true;
    windows->under_way--;
    buffer_free(&range->body);
    device_idle(range->device);
    if (--range->leader->unsettled == 0) {
        windows->requests--;
        supply_look_again(windows->path);
    }
    pthread_cond_broadcast(&windows->path->changed);
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

static uint64_t blob_offset(const struct window_range *range)
{
    return range->device->table->groups[range->first].offset;
}

static size_t blob_length(const struct window_range *range)
{
    const struct window_group *last =
        &range->device->table->groups[range->first + range->count - 1];
    return (size_t)(last->offset + last->length - blob_offset(range));
}

static void start(struct window_range *range, unsigned batch, struct actions *actions)
{
    range->owner->under_way++;
    device_busy(range->device);
    range->request =
        range_request_new(range->device, &range->device->windows_digest, blob_offset(range),
                          blob_length(range), &receiver, range, 0, actions);
    if (range->request)
        range->request->batch = batch;
    else
        settle(range);
}

/* How many of the next ranges one request asks for. */
static unsigned count_together(const struct window_prefetch *windows)
{
    const struct window_range *first = &windows->ranges[windows->next];
    size_t left = windows->count - windows->next, length = 0;
    unsigned most = range_batch_max(windows->path), count = 0;
    while (count < most && count < left && first[count].device == first->device &&
           length < REQUEST_LENGTH)
        length += blob_length(&first[count++]);
    return count;
}

static void start_request(struct window_prefetch *windows, struct actions *actions)
{
    struct window_range *leader = &windows->ranges[windows->next];
    unsigned count = count_together(windows), batch = count > 1 ? ++windows->path->batches : 0;
    leader->unsettled = count;
    windows->requests++;
    for (unsigned i = 0; i < count; i++) {
        windows->next++;
        leader[i].leader = leader;
        start(&leader[i], batch, actions);
    }
}

static void start_next(struct window_prefetch *windows, struct actions *actions)
{
    while (!windows->stop && windows->next < windows->count && windows->requests < REQUESTS_AT_ONCE)
        start_request(windows, actions);
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
