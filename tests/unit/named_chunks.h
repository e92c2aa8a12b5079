/* A supply that names chunks of one device in a given order, and notes what comes back. Include
 * after cmocka.h. */
#ifndef SLUICE_TESTS_UNIT_NAMED_CHUNKS_H
#define SLUICE_TESTS_UNIT_NAMED_CHUNKS_H

#include <pthread.h>
#include <stdlib.h>

#include "fuse/layer_device.h"

struct named_chunks {
    struct layer_device *device;
    const uint32_t *chunks;
    unsigned count, named;
    struct supply *supply;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned returned;
    int results[2048]; /* by chunk; 1: has not come back */
};

static inline bool named_chunks_next(void *context, struct layer_device **ret_device,
                                     uint32_t *ret_chunk)
{
    struct named_chunks *named = context;
    if (named->named == named->count) return false;
    *ret_device = named->device;
    *ret_chunk = named->chunks[named->named++];
    return true;
}

static inline void named_chunks_done(void *context, struct layer_device *device, uint32_t chunk,
                                     int result)
{
    struct named_chunks *named = context;
    pthread_mutex_lock(&named->lock);
    if (device != named->device || chunk >= 2048 || named->results[chunk] != 1) abort();
    named->results[chunk] = result;
    named->returned++;
    pthread_cond_signal(&named->changed);
    pthread_mutex_unlock(&named->lock);
}

/* Names these chunks from now on. `named` must stay until the supply is taken away. */
static inline void named_chunks_start(struct named_chunks *named, struct data_path *path,
                                      enum supply_kind kind, struct layer_device *device,
                                      const uint32_t *chunks, unsigned count)
{
    const struct chunk_supply supply = { named_chunks_next, named_chunks_done, named };
    *named = (struct named_chunks){ .device = device, .chunks = chunks, .count = count };
    pthread_mutex_init(&named->lock, NULL);
    pthread_cond_init(&named->changed, NULL);
    for (unsigned i = 0; i < 2048; i++)
        named->results[i] = 1;
    assert_int_equal(data_path_add_supply(path, kind, &supply, &named->supply, NULL), 0);
}

static inline void named_chunks_wait(struct named_chunks *named, unsigned returned)
{
    pthread_mutex_lock(&named->lock);
    while (named->returned < returned)
        pthread_cond_wait(&named->changed, &named->lock);
    pthread_mutex_unlock(&named->lock);
}

static inline unsigned named_chunks_with(struct named_chunks *named, int result)
{
    unsigned count = 0;
    pthread_mutex_lock(&named->lock);
    for (unsigned i = 0; i < 2048; i++)
        count += named->results[i] == result;
    pthread_mutex_unlock(&named->lock);
    return count;
}

#endif
