/*
 * Neighbours of what a reader waits for.
 *
 * Who reads one chunk will often read those beside it. Where the link has nothing else to do, they
 * come along for as long as all of them take no more time than another request would wait for its
 * first byte; nobody waits for them. More of them lie behind the chunk, because readers go forward;
 * those in front of it are a run of their own, because what somebody waits for comes first.
 */
#include <stdlib.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"

/* A reader waits for one at a time, beside which another brings what is in front of it; two more
 * may be under way for what was read before. */
#define RANGES_ON_AN_IDLE_LINK 4u

static size_t bytes_before(const struct data_path *path)
{
    return link_speed_round_trip_bytes(&path->link) / 3;
}

static size_t bytes_behind(const struct data_path *path)
{
    return link_speed_round_trip_bytes(&path->link) / 3 * 2;
}

/* Nothing is wanted but what the run takes along, and what is filled, which can wait: a reader is
 * more likely to want what lies beside his chunk. */
static bool link_is_idle(const struct run *run)
{
    const struct data_path *path = run->device->path;
    const struct active_chunk *record;
    for (unsigned i = 0; i < URGENCY_FILL; i++) {
        TAILQ_FOREACH(record, &path->wanted[i], queue)
        if (record->device != run->device || record->chunk < run->first ||
            record->chunk > run->last)
            return false;
    }
    return path->ranges < RANGES_ON_AN_IDLE_LINK;
}

void neighbours_take_behind(struct run *run)
{
    const struct layer_device *device = run->device;
    const struct chunk_table *table = device->table;
    size_t most = bytes_behind(device->path);
    uint32_t last = run->last;
    run->neighbours = link_is_idle(run);
    if (!run->neighbours) return;
    while (last + 1 < table->chunk_count && run_may_take(device, last + 1) &&
           run_blob_length(table, run->first, last + 1) <= run->piece &&
           run_blob_length(table, run->last + 1, last + 1) <= most)
        last++;
    run->last = last;
}

/* False: there are none. */
static bool choose_before(struct run *run, uint32_t chunk)
{
    const struct layer_device *device = run->device;
    size_t most = bytes_before(device->path);
    run->first = chunk;
    while (run->first > 0 && run_may_take(device, run->first - 1) &&
           run_blob_length(device->table, run->first - 1, chunk - 1) <= most)
        run->first--;
    if (run->first == chunk) return false;
    run->last = run->wanted_last = chunk - 1;
    run_place(run);
    run_measure(run);
    return true;
}

void neighbours_start_before(const struct run *demanded, struct actions *actions)
{
    struct data_path *path = demanded->device->path;
    struct run plan = { .device = demanded->device,
                        .urgency = URGENCY_AHEAD,
                        .memory_kind = MEMORY_AHEAD,
                        .piece = run_piece_limit(path) };
    if (!choose_before(&plan, demanded->first)) return;
    struct run *run = malloc(sizeof *run);
    if (!run || !memory_hold(&path->memory, plan.memory_kind, run_memory(&plan))) {
        free(run);
        return;
    }
    *run = plan;
    run_begin(run, actions);
}
