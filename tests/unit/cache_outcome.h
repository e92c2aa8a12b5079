/* What a cache does on a thread of its own, for a test that waits for it. Needs <cmocka.h> before
 * it. */
#ifndef SLUICE_TESTS_CACHE_OUTCOME_H
#define SLUICE_TESTS_CACHE_OUTCOME_H

#include <errno.h>
#include <pthread.h>

#include "cache/cache.h"

struct outcome {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count;
    ssize_t result;
};

static inline struct outcome outcome_of_nothing(void)
{
    return (struct outcome){ .lock = PTHREAD_MUTEX_INITIALIZER,
                             .changed = PTHREAD_COND_INITIALIZER };
}

static inline void note_outcome(void *context, ssize_t result)
{
    struct outcome *outcome = context;
    pthread_mutex_lock(&outcome->lock);
    outcome->count++;
    outcome->result = result;
    pthread_cond_signal(&outcome->changed);
    pthread_mutex_unlock(&outcome->lock);
}

static inline ssize_t wait_outcome(struct outcome *outcome)
{
    pthread_mutex_lock(&outcome->lock);
    while (outcome->count == 0)
        pthread_cond_wait(&outcome->changed, &outcome->lock);
    ssize_t result = outcome->result;
    pthread_mutex_unlock(&outcome->lock);
    return result;
}

static inline void note_stored(void *context, ssize_t result, uint32_t generation)
{
    assert_int_equal(result >= 0, generation != 0);
    note_outcome(context, result);
}

/* As layer_cache_store() and layer_cache_read(), and what they end with. */
static inline ssize_t store_chunk(struct layer_cache *layer, uint32_t chunk, uint64_t offset,
                                  const void *data, size_t length)
{
    struct outcome outcome = outcome_of_nothing();
    layer_cache_store(layer, chunk, offset, data, length, note_stored, &outcome);
    return wait_outcome(&outcome);
}

static inline ssize_t load_bytes(struct layer_cache *layer, uint64_t offset, void *data,
                                 size_t length)
{
    struct outcome outcome = outcome_of_nothing();
    ssize_t result = layer_cache_read(layer, offset, data, length, note_outcome, &outcome);
    return result == -EINPROGRESS ? wait_outcome(&outcome) : result;
}

#endif
