/* Threads that decode and hash. */
#ifndef SLUICE_FUSE_WORKER_POOL_INTERNAL_H
#define SLUICE_FUSE_WORKER_POOL_INTERNAL_H

#include <stdbool.h>
#include <sys/queue.h>

#include "base/error.h"

struct job {
    void (*work)(struct job *job); /* may free what the job is part of */
    STAILQ_ENTRY(job) link;
};

struct worker_pool;
int worker_pool_new(struct worker_pool **ret, unsigned threads, struct error **error);
/* After the last job is done. NULL is fine. */
void worker_pool_free(struct worker_pool *pool);
/* In the order of the calls, all urgent ones first; `job` stays the caller's until its work runs.
 */
void worker_pool_add(struct worker_pool *pool, struct job *job, bool urgent);
/* For a job that takes long: others that are as urgent wait. It may add itself again behind them.
 */
bool worker_pool_others_wait(struct worker_pool *pool, bool urgent);

#endif
