/* Remembers the order in which a server's chunks were first read. */
#ifndef SLUICE_FUSE_RECORDER_H
#define SLUICE_FUSE_RECORDER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "fuse/layer_device.h"

struct recorder;

struct recorded_touch {
    uint32_t layer; /* from 0 */
    uint32_t chunk;
    uint64_t offset;       /* in the layer's stream: what was read */
    uint64_t milliseconds; /* since recorder_new() */
};

/* Attaches itself to the data path; the array is borrowed. Before the first read. */
int recorder_new(struct recorder **ret, struct data_path *path, struct layer_device *const *devices,
                 size_t device_count, struct error **error);
/* All touches so far, in their order, in fresh memory. The number, or -1: out of memory. */
ssize_t recorder_touches(struct recorder *recorder, struct recorded_touch **ret);
/* After the last read. NULL is fine. */
void recorder_free(struct recorder *recorder);

#endif
