#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/thread.h"
#include "fuse/worker_pool-internal.h"

STAILQ_HEAD(job_queue, job);

struct worker_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job_queue urgent, others;
    _Atomic unsigned waiting_urgent, waiting_others;
    bool ending;
    unsigned count;
    pthread_t threads[];
};

static struct job *take(struct job_queue *queue, _Atomic unsigned *waiting)
{
    struct job *job = STAILQ_FIRST(queue);
    if (!job) return NULL;
    STAILQ_REMOVE_HEAD(queue, link);
    atomic_fetch_sub(waiting, 1);
    return job;
}

static void *worker(void *argument)
{
    struct worker_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct job *job = take(&pool->urgent, &pool->waiting_urgent);
        if (!job) job = take(&pool->others, &pool->waiting_others);
        if (job) {
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
    STAILQ_INIT(&pool->urgent);
    STAILQ_INIT(&pool->others);
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

void worker_pool_add(struct worker_pool *pool, struct job *job, bool urgent)
{
    pthread_mutex_lock(&pool->lock);
    if (urgent) {
        STAILQ_INSERT_TAIL(&pool->urgent, job, link);
        atomic_fetch_add(&pool->waiting_urgent, 1);
    } else {
        STAILQ_INSERT_TAIL(&pool->others, job, link);
        atomic_fetch_add(&pool->waiting_others, 1);
    }
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

bool worker_pool_others_wait(struct worker_pool *pool, bool urgent)
{
    return atomic_load_explicit(&pool->waiting_urgent, memory_order_relaxed) > 0 ||
           (!urgent && atomic_load_explicit(&pool->waiting_others, memory_order_relaxed) > 0);
}
