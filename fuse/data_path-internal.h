/*
 * What the files of the data path share.
 *
 * One lock per data path covers everything but a chunk's state byte and the
 * generation that goes with it, which the hit path reads alone. Nothing slow and no callback
 * happens under it: who holds the lock notes in a `struct actions` what is to be done, and
 * data_path_leave() does it after letting go.
 *
 *   data_path.c       the shared parts: entering and leaving, reports, the timer
 *   layer_device.c    opening, closing, the hit path
 *   device_read.c     parked reads: their pieces, answering; read_load.c: loading from disk
 *   device_reader.c   whom they are for, and what is counted of them
 *   chunk_state.c     the life of a chunk: awaited, checked, arrived, stored, failed
 *   supply.c          chunks that nobody waits for: asked for, handed back
 *   read_ahead.c      which chunks a reader who goes forward will want next
 *   prefetch.c        the supply that a profile is; prefetch_plan.c, window_prefetch.c
 *   run_start.c       which chunks are fetched next, in one range
 *   run_neighbours.c  which come along because the link is idle
 *   run.c             the life of a run; run_suspend.c, run_failure.c
 *   run_decode.c      a run's bytes on their way through the decoder
 *   recent_failure.c  chunks that could not be had a moment ago
 *   window_cache.c    gzip windows
 *   range_request.c   one range request that can be abandoned; layer_places.c: where it is asked
 *   link_speed.c      what the link to the registry is like
 *   memory_budget.c, worker_pool.c, thread_buffer.c
 */
#ifndef SLUICE_FUSE_DATA_PATH_INTERNAL_H
#define SLUICE_FUSE_DATA_PATH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/recent_failure-internal.h"
#include "fuse/run-internal.h"
#include "fuse/supply-internal.h"

struct path_counters {
    _Atomic uint64_t chunks_fetched, bytes_fetched, bytes_decoded, chunks_in_flight,
        window_bytes_fetched, chunks_damaged, store_errors;
};

/* Under the lock. */
struct noted_error {
    char *text; /* NULL: there was none */
    uint64_t at;
};

struct data_path {
    struct registry_client *client;
    struct cache *cache;
    unsigned read_timeout_ms;
    unsigned ranges_limit;
    struct chunk_recorder recorder; /* touched: NULL where there is none */
    struct worker_pool *workers;
    struct path_counters counters;
    struct device_reader all; /* readers together */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a store or a device's work has ended */
    struct memory_budget memory;
    struct chunk_queue wanted[URGENCIES], checks, kept;
    size_t kept_bytes;
    struct read_queue loads;  /* QUEUED */
    struct read_queue parked; /* by deadline */
    TAILQ_HEAD(, run) runs;   /* suspended ones: least recently used first */
    struct link_speed link;
    bool neighbours;        /* as struct data_path_options */
    unsigned ranges;        /* requests that are under way, of runs */
    unsigned ranges_ahead;  /* of those: that were not demand when they were asked for */
    size_t ahead_bytes;     /* of theirs that have not come */
    unsigned batches;       /* so far */
    struct run_batch batch; /* that is being put together */
    size_t suspended_bytes;
    TAILQ_HEAD(, window_group_entry) windows;
    size_t windows_bytes;
    struct recent_failure recent_failures[RECENT_FAILURES]; /* a ring */
    unsigned recent_failure_next;
    struct noted_error last_error;
    _Atomic uint64_t store_error_reported; /* milliseconds */
    uint64_t ahead_error_reported;         /* milliseconds */
    LIST_HEAD(supplies, supply) supplies[SUPPLY_KINDS];
    struct supply *ahead; /* who gets back what is fetched ahead of readers: nobody */
    struct fill_rate fill_rate;
    _Atomic uint64_t demanded_at; /* milliseconds: a read last had to wait for the registry */
    bool demanded;                /* one had to */

    pthread_t timer;
    pthread_cond_t timer_wake;
    uint64_t wake_at; /* milliseconds: something can be started then; 0: nothing */
    bool timer_started, ending;
};

struct report {
    STAILQ_ENTRY(report) action;
    bool warning; /* else an error */
    char *text;
};

/* What the holder of the lock leaves to be done without it. */
struct actions {
    STAILQ_HEAD(, device_read) answers; /* from memory */
    STAILQ_HEAD(, device_read) failures;
    STAILQ_HEAD(, device_read) expirations; /* of reads that are loading */
    STAILQ_HEAD(, device_read) loads;
    STAILQ_HEAD(, active_chunk) checks;
    STAILQ_HEAD(, active_chunk) stores;
    struct range_requests requests;
    STAILQ_HEAD(, run) dead_runs;
    STAILQ_HEAD(, chunk_bytes) dead_bytes;
    STAILQ_HEAD(, report) reports;
    struct supply_returns returns; /* chunks that go back to supplies */
};

void data_path_enter(struct data_path *path, struct actions *actions);
/* Starts what can be started, lets go of the lock, does what was noted. */
void data_path_leave(struct data_path *path, struct actions *actions);
/* The timer is to look again at that time. Under the lock. */
void data_path_wake_at(struct data_path *path, uint64_t milliseconds);
/* Under the lock: the reason for an EIO, for the log and data_path_last_error(). */
void device_report(struct layer_device *device, struct actions *actions, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for the log only, as a warning. */
void data_path_mention(struct actions *actions, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
