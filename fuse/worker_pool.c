#include <stdlib.h>

#include "base/thread.h"
#include "fuse/layer_device-internal.h"

struct worker_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    STAILQ_HEAD(, job) jobs;
    bool ending;
    unsigned count;
    pthread_t threads[];
};

static void *worker(void *argument)
{
    struct worker_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct job *job = STAILQ_FIRST(&pool->jobs);
        if (job) {
            STAILQ_REMOVE_HEAD(&pool->jobs, link);
            pthread_mutex_unlock(&pool->lock);
            job->work(job);
            pthread_mutex_lock(&pool->lock);
        } else if (pool->ending) {
            break;
        } else {
            pthread_cond_wait(&pool->wake, &pool->lock);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int worker_pool_new(struct worker_pool **ret, unsigned threads, struct error **error)
{
    struct worker_pool *pool = calloc(1, sizeof *pool + threads * sizeof pool->threads[0]);
    if (!pool) return error_set_memory(error);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    STAILQ_INIT(&pool->jobs);
    while (pool->count < threads) {
        if (thread_start(&pool->threads[pool->count], "sluice-worker", worker, pool, error) < 0) {
            worker_pool_free(pool);
            return -1;
        }
        pool->count++;
    }
    *ret = pool;
    return 0;
}

void worker_pool_free(struct worker_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->ending = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void worker_pool_add(struct worker_pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->lock);
    STAILQ_INSERT_TAIL(&pool->jobs, job, link);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}
