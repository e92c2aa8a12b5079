/*
 * How long a run is tried, and what becomes of those who wait for it when that
 * was in vain.
 */
#include "base/clock.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/run-internal.h"

#define AHEAD_ERROR_INTERVAL_MS 10000u

uint64_t run_wanted_until(const struct run *run)
{
    uint64_t until = 0;
    for (uint32_t i = run->next; i <= run->wanted_last; i++) {
        if (chunk_state(run->device, i) != CHUNK_FETCHING) continue;
        uint64_t wanted = chunk_wanted_until(active_chunk_find(run->device, i));
        if (wanted > until) until = wanted;
    }
    return until;
}

static void fail_chunks(struct run *run, uint32_t last, struct actions *actions)
{
    for (uint32_t i = run->first; i <= last; i++) {
        if (chunk_state(run->device, i) != CHUNK_FETCHING) continue;
        chunk_fail(active_chunk_find(run->device, i), actions);
    }
}

static bool somebody_waits(const struct run *run, uint32_t last)
{
    for (uint32_t i = run->first; i <= last; i++)
        if (chunk_state(run->device, i) == CHUNK_FETCHING &&
            !TAILQ_EMPTY(&active_chunk_find(run->device, i)->waiters))
            return true;
    return false;
}

static void report(const struct run *run, const char *reason, struct actions *actions)
{
    device_report(run->device, actions, "layer %s...: %s", run->device->name, reason);
}

/* A failure that no reader hears of is told now and then: a supply may have thousands. */
static void mention(const struct run *run, const char *reason, struct actions *actions)
{
    struct data_path *path = run->device->path;
    uint64_t now = clock_ms();
    if (path->ahead_error_reported && now - path->ahead_error_reported < AHEAD_ERROR_INTERVAL_MS)
        return;
    path->ahead_error_reported = now;
    data_path_mention(actions, "layer %s...: fetching ahead: %s", run->device->name, reason);
}

void run_fail_until(struct run *run, uint32_t last, const char *reason, struct actions *actions)
{
    if (!run->device->closing && somebody_waits(run, last))
        report(run, reason, actions);
    else if (!run->device->closing)
        mention(run, reason, actions);
    fail_chunks(run, last, actions);
    run_end(run, actions);
}

void run_fail(struct run *run, const char *reason, struct actions *actions)
{
    run_fail_until(run, run->wanted_last, reason, actions);
}

/* Of a supply's chunks none is tried again by itself. */
static bool fail_old_reads(const struct run *run, struct actions *actions)
{
    bool any = false;
    for (uint32_t i = run->first; i <= run->wanted_last; i++) {
        struct active_chunk *record = NULL;
        if (chunk_state(run->device, i) == CHUNK_FETCHING)
            record = active_chunk_find(run->device, i);
        if (record && chunk_fail_old_reads(record, actions)) any = true;
        if (record && TAILQ_EMPTY(&record->waiters)) chunk_fail(record, actions);
    }
    return any;
}

void run_out_of_time(struct run *run, const char *reason, struct actions *actions)
{
    bool ahead = !somebody_waits(run, run->wanted_last);
    bool told = fail_old_reads(run, actions);
    if (told && !run->device->closing)
        report(run, reason, actions);
    else if (ahead && !run->device->closing)
        mention(run, reason, actions);
    run_end(run, actions); /* what is still waited for is wanted again */
}
