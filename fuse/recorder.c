#include "fuse/recorder.h"
#include "base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct recorder {
    struct data_path *path;
    struct layer_device *const *devices;
    size_t device_count;
    uint64_t started; /* milliseconds, CLOCK_MONOTONIC */
    pthread_mutex_t lock;
    struct recorded_touch *touches;
    size_t count, capacity;
};

static size_t layer_of(const struct recorder *recorder, const struct layer_device *device)
{
    size_t layer = 0;
    while (layer < recorder->device_count && recorder->devices[layer] != device)
        layer++;
    return layer;
}

/* There is no more to remember than there are chunks. Without memory the touch is forgotten. */
static void append(struct recorder *recorder, const struct recorded_touch *touch)
{
    if (recorder->count == recorder->capacity) {
        size_t capacity = recorder->capacity ? 2 * recorder->capacity : 256;
        struct recorded_touch *touches = realloc(recorder->touches, capacity * sizeof *touches);
        if (!touches) return;
        recorder->touches = touches;
        recorder->capacity = capacity;
    }
    recorder->touches[recorder->count++] = *touch;
}

static void note_touch(void *context, struct layer_device *device, uint32_t chunk, uint64_t offset)
{
    struct recorder *recorder = context;
    size_t layer = layer_of(recorder, device);
    if (layer == recorder->device_count) return;
    pthread_mutex_lock(&recorder->lock);
    struct recorded_touch touch = { (uint32_t)layer, chunk, offset,
                                    clock_ms() - recorder->started };
    append(recorder, &touch);
    pthread_mutex_unlock(&recorder->lock);
}

int recorder_new(struct recorder **ret, struct data_path *path, struct layer_device *const *devices,
                 size_t device_count, struct error **error)
{
    struct recorder *recorder = calloc(1, sizeof *recorder);
    if (!recorder) return error_set_memory(error);
    recorder->path = path;
    recorder->devices = devices;
    recorder->device_count = device_count;
    recorder->started = clock_ms();
    pthread_mutex_init(&recorder->lock, NULL);
    struct chunk_recorder hook = { note_touch, recorder };
    data_path_set_recorder(path, &hook);
    *ret = recorder;
    return 0;
}

ssize_t recorder_touches(struct recorder *recorder, struct recorded_touch **ret)
{
    pthread_mutex_lock(&recorder->lock);
    size_t count = recorder->count;
    *ret = calloc(count + 1, sizeof **ret);
    if (*ret && count) memcpy(*ret, recorder->touches, count * sizeof **ret);
    pthread_mutex_unlock(&recorder->lock);
    return *ret ? (ssize_t)count : -1;
}

void recorder_free(struct recorder *recorder)
{
    if (!recorder) return;
    data_path_set_recorder(recorder->path, NULL);
    pthread_mutex_destroy(&recorder->lock);
    free(recorder->touches);
    free(recorder);
}
