/* Chunks that could not be had a moment ago. Under the data path's lock. */
#ifndef SLUICE_FUSE_RECENT_FAILURE_INTERNAL_H
#define SLUICE_FUSE_RECENT_FAILURE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

struct layer_device;

struct recent_failure {
    const struct layer_device *device; /* NULL: none */
    uint32_t chunk;
    uint64_t at; /* milliseconds */
};

#define RECENT_FAILURES 64u

void failure_note(const struct layer_device *device, uint32_t chunk);
bool failure_is_recent(const struct layer_device *device, uint32_t chunk);
/* Before the device is freed: another may get its address. */
void failures_forget_device(const struct layer_device *device);

#endif
