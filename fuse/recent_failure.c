/*
 * Chunks that could not be had a moment ago, after a long wait.
 *
 * When a read ahead of the kernel's ends with EIO, the kernel asks for the same
 * bytes once more before it tells the program, and that read would wait for the
 * whole bound again. So such a failure holds for a moment: who asks for the
 * chunk then hears of it at once, and who tries again later, does.
 */
#include "base/clock.h"
#include "fuse/layer_device-internal.h"
#include "fuse/recent_failure-internal.h"

#define FAILURE_HOLDS_MS 1000u

void failure_note(const struct layer_device *device, uint32_t chunk)
{
    struct data_path *path = device->path;
    path->recent_failures[path->recent_failure_next++ % RECENT_FAILURES] =
        (struct recent_failure){ device, chunk, clock_ms() };
}

bool failure_is_recent(const struct layer_device *device, uint32_t chunk)
{
    const struct data_path *path = device->path;
    uint64_t now = 0;
    for (unsigned i = 0; i < RECENT_FAILURES; i++) {
        const struct recent_failure *failure = &path->recent_failures[i];
        if (failure->device != device || failure->chunk != chunk) continue;
        if (!now) now = clock_ms();
        if (now - failure->at < FAILURE_HOLDS_MS) return true;
    }
    return false;
}

void failures_forget_device(const struct layer_device *device)
{
    struct data_path *path = device->path;
    for (unsigned i = 0; i < RECENT_FAILURES; i++)
        if (path->recent_failures[i].device == device) path->recent_failures[i].device = NULL;
}
