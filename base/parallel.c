#include "base/parallel.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/thread.h"

struct parallel {
    pthread_mutex_t lock;
    size_t next, count;
    parallel_work *work;
    void *context;
    size_t failed_position;
    struct error *error;
    bool failed;
};

static void *take_positions(void *argument)
{
    struct parallel *parallel = argument;
    for (;;) {
        pthread_mutex_lock(&parallel->lock);
        bool stop = parallel->failed || parallel->next == parallel->count;
        size_t position = stop ? 0 : parallel->next++;
        pthread_mutex_unlock(&parallel->lock);
        if (stop) return NULL;
        struct error *error = NULL;
        if (parallel->work(parallel->context, position, &error) == 0) continue;
        pthread_mutex_lock(&parallel->lock);
        if (!parallel->failed || position < parallel->failed_position) {
            error_free(parallel->error);
            parallel->error = take_pointer(&error);
            parallel->failed_position = position;
            parallel->failed = true;
        }
        pthread_mutex_unlock(&parallel->lock);
        error_free(error);
    }
}

int parallel_run(size_t count, unsigned threads, parallel_work *work, void *context,
                 struct error **error)
{
    struct parallel parallel = {
        .lock = PTHREAD_MUTEX_INITIALIZER, .count = count, .work = work, .context = context
    };
    pthread_t others[63];
    unsigned started = 0;
    if (threads > 64) threads = 64;
    /* This thread works too; where no other can be started it does everything. */
    while (started + 1 < threads && started + 1 < count &&
           thread_start(&others[started], "parallel", take_positions, &parallel, NULL) == 0)
        started++;
    take_positions(&parallel);
    for (unsigned i = 0; i < started; i++)
        pthread_join(others[i], NULL);
    return parallel.failed ? error_move(error, parallel.error) : 0;
}
