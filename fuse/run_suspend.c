/*
 * Runs that have stopped before their end: a reader that goes on finds the
 * decoder where it stopped, instead of starting at the checkpoint again.
 */
#include <stdlib.h>

#include "fuse/layer_device-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/run-internal.h"

static bool another_is_suspended(const struct data_path *path, const struct run *newest)
{
    const struct run *run;
    TAILQ_FOREACH(run, &path->runs, link)
    if (run != newest && run->state == RUN_SUSPENDED) return true;
    return false;
}

/* Gives memory back: first the bytes that can be fetched again at the price of themselves, then a
 * decoder, whose row of chunks would have to be fetched again from its start. */
static void shed_suspended(struct data_path *path, const struct run *spared,
                           struct actions *actions)
{
    struct run *run, *oldest = NULL;
    TAILQ_FOREACH(run, &path->runs, link)
    {
        if (run->state != RUN_SUSPENDED || run == spared) continue;
        if (!oldest) oldest = run;
        if (run->body_memory == 0) continue;
        memory_release(&path->memory, run->body_memory);
        path->suspended_bytes -= run->body_memory;
        run->body_memory = 0;
        run_drop_body(run);
        return;
    }
    if (oldest) run_end(oldest, actions);
}

void run_suspend(struct run *run, struct actions *actions)
{
    struct data_path *path = run->device->path;
    run_let_memory_go(run);
    run->state = RUN_SUSPENDED;
    run->attempts = 0;
    free(run->failure);
    run->failure = NULL;
    run->failed = false;
    run->body_memory = run->body_length;
    run->decoder_memory = run->decoder ? chunk_decoder_memory(run->decoder) : 0;
    memory_charge(&path->memory, run_memory(run));
    path->suspended_bytes += run_memory(run);
    TAILQ_REMOVE(&path->runs, run, link);
    TAILQ_INSERT_TAIL(&path->runs, run, link);
    /* The newest stays, however much its decoder holds: without it each read of a layer in one
     * zstd frame would decode the frame from its start. */
    while (path->suspended_bytes > path->memory.limit / 2 && another_is_suspended(path, run))
        shed_suspended(path, run, actions);
}

/* Its memory is counted again, whether it fits or not, for there are few of them. */
void run_resume(struct run *run, struct actions *actions)
{
    struct data_path *path = run->device->path;
    run_let_memory_go(run);
    run_measure(run);
    path->memory.holders[run->memory_kind]++;
    memory_charge(&path->memory, run_memory(run));
    run->state = RUN_FETCHING;
    run_go_on(run, actions);
}
