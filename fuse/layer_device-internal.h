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
 *   range_request.c   one range request that can be abandoned
 *   link_speed.c      what the link to the registry is like
 *   memory_budget.c, worker_pool.c, thread_buffer.c
 */
#ifndef SLUICE_FUSE_LAYER_DEVICE_INTERNAL_H
#define SLUICE_FUSE_LAYER_DEVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "fuse/layer_device.h"
#include "fuse/memory_budget-internal.h"
#include "fuse/worker_pool-internal.h"
#include "index/chunk_decoder.h"

#define DEVICE_READ_MAX  (4u << 20)
#define RANGE_LENGTH_MAX (4u << 20)

struct actions;

/* ---- link_speed.c; under the lock ---- */

struct link_speed {
    uint64_t wait_us, bytes_per_ms; /* of one range; 0: not known */
    uint64_t all_bytes_per_ms;      /* of all that are under way together; 0: not known */
    uint64_t since_us, counted;     /* bytes that came since; 0: none are counted */
};
/* A range's first byte came after `waited_us`, its `length` bytes within `moved_us`. */
void link_speed_note(struct link_speed *link, uint64_t waited_us, uint64_t moved_us, size_t length);
/* Some bytes of any range came; of all, none is under way any more. */
void link_speed_arrived(struct link_speed *link, size_t length, uint64_t now_us);
void link_speed_idle(struct link_speed *link);
/* What comes in the time that another request would wait for its first byte. */
size_t link_speed_round_trip_bytes(const struct link_speed *link);
/* What may be under way that nobody waits for. */
size_t link_speed_ahead_bytes(const struct link_speed *link);
/* What has to be under way for one who goes forward, so that the link does not rest. */
size_t link_speed_stream_bytes(const struct link_speed *link);

/* ---- range_request.c ---- */

/* Some bytes of a body. */
struct body_piece {
    STAILQ_ENTRY(body_piece) link;
    size_t length, capacity;
    uint8_t data[];
};
STAILQ_HEAD(body_pieces, body_piece);

/* Who gets an answer. Under the lock, on the registry client's thread; either may abandon the
 * request. What they are given is theirs. */
struct range_receiver {
    /* The next bytes. NULL: the whole body goes to `done`. */
    void (*piece)(void *owner, struct body_piece *piece, struct actions *actions);
    /* The last call. All bytes were there (in `body`, unless they came in pieces), or `error`. */
    void (*done)(void *owner, struct buffer *body, struct error *error, struct actions *actions);
};

struct range_request {
    const struct range_receiver *receiver;
    void *owner;
    struct layer_device *device;
    struct digest digest;
    uint64_t offset;
    size_t length;
    uint64_t retry_until; /* clock_ms() */
    unsigned batch; /* those of one number are asked for by one request, if possible; 0: alone */
    _Atomic int state;
    bool dropped;               /* abandoned while an answer waited for the lock; under the lock */
    struct body_piece *filling; /* the client's thread's: what was not handed on yet */
    size_t taken;
    const struct layer_place *place; /* that was asked last, or is to be asked */
    unsigned places_tried;
    bool failed;               /* out of memory */
    uint64_t sent_at, came_at; /* microseconds; of the first byte, 0: none */
    STAILQ_ENTRY(range_request) action;
};

/* The request is sent when the lock is let go. `wanted_until`: when the last of those who wait for
 * it gives up (0: nobody waits); until shortly before, it is tried again. NULL: out of memory. */
struct range_request *range_request_new(struct layer_device *device, const struct digest *digest,
                                        uint64_t offset, size_t length,
                                        const struct range_receiver *receiver, void *owner,
                                        uint64_t wanted_until, struct actions *actions);
/* For one that failed: it was tried for as long as was agreed on when it was made. False: trying
 * longer would not have helped. */
bool range_request_had_its_time(const struct range_request *request);
/* Under the lock: the receiver will not be called any more. */
void range_request_abandon(struct range_request *request);
STAILQ_HEAD(range_requests, range_request);
/* Takes them. Without the lock. */
void range_requests_send(struct range_requests *requests);
/* How many ranges one request may ask for, as far as is known; 1 where a host gives one only. */
unsigned range_batch_max(const struct data_path *path);

/* ---- chunks ---- */

enum chunk_state {
    CHUNK_ABSENT,   /* not here, or not known to be here */
    CHUNK_CHECKING, /* some process stored it; is being read and hashed, or waits for that */
    CHUNK_WANTED,   /* waits for a run */
    CHUNK_FETCHING, /* part of a run: its range or its decoding is under way */
    CHUNK_READY,    /* verified bytes in memory, being stored (or kept, where that failed) */
    CHUNK_PRESENT,  /* in the cache file, verified by this process, if its generation holds */
};

/* Decoded bytes, counted in the budget for as long as they live. */
struct chunk_bytes {
    uint8_t *data;
    size_t length;
    unsigned references;
    STAILQ_ENTRY(chunk_bytes) action;
};

/* What is fetched first. */
enum urgency {
    URGENCY_DEMAND, /* a read waits for it */
    URGENCY_AHEAD,  /* a reader who goes forward is about to come to it */
    URGENCY_PROFILE,
    URGENCY_FILL,
    URGENCIES
};

/* A chunk that a supply has handed out, until it was given back. Keeps the device busy. */
struct supply_return {
    struct supply *supply;
    struct layer_device *device;
    uint32_t chunk;
    enum urgency urgency;
    int result;
    bool called; /* of those that go back: its callback is due */
    STAILQ_ENTRY(supply_return) link;
};
STAILQ_HEAD(supply_returns, supply_return);

/* A chunk that is neither absent nor merely present. */
struct active_chunk {
    struct layer_device *device;
    uint32_t chunk;
    struct active_chunk *hash_next;
    TAILQ_ENTRY(active_chunk) queue; /* of the data path: `wanted`, `checks` or `kept` */
    TAILQ_HEAD(, read_piece) waiters;
    struct supply_returns owed; /* to supplies */
    enum urgency urgency;       /* WANTED: whose queue it is in */
    bool demanded;              /* READY: a read got the bytes */
    struct chunk_bytes *bytes;  /* CHECKING: being read; READY */
    int store_result;           /* READY: kept, because it could not be stored: why; else 0 */
    ssize_t read_result;        /* CHECKING */
    uint32_t generation;        /* CHECKING: of what is being read; 0: it was evicted before */
    struct job job;             /* CHECKING: hashing */
    STAILQ_ENTRY(active_chunk) action;
};

/* ---- reads ---- */

struct read_piece {
    struct device_read *read;
    uint32_t chunk;
    struct active_chunk *awaits; /* while waiting */
    struct chunk_bytes *bytes;   /* NULL when not waiting: the chunk is in the cache file ... */
    uint32_t generation;         /* ... in this generation */
    TAILQ_ENTRY(read_piece) waiter;
};

enum read_state {
    READ_WAITING,   /* for chunks */
    READ_QUEUED,    /* all chunks are here; waits for memory to load some from disk */
    READ_LOADING,   /* is with the cache */
    READ_FINISHING, /* being answered */
};

struct device_read {
    struct layer_device *device;
    struct device_reader *reader; /* not to be looked at once it is answered; or NULL */
    uint64_t offset;
    size_t length;      /* asked for */
    size_t data_length; /* that lie within the stream */
    device_read_done *done;
    void *context;
    enum read_state state;
    uint64_t deadline;               /* milliseconds, CLOCK_MONOTONIC */
    unsigned references;             /* two while a read that is loading is answered by the timer */
    bool expired;                    /* was answered by the timer */
    bool missed;                     /* had to wait for the registry */
    uint32_t waiting;                /* pieces */
    uint8_t *buffer;                 /* READ_LOADING */
    uint32_t load_first, load_end;   /* pieces that are with the cache */
    TAILQ_ENTRY(device_read) parked; /* until FINISHING or expired */
    TAILQ_ENTRY(device_read) queue;  /* QUEUED */
    STAILQ_ENTRY(device_read) action;
    uint32_t piece_count;
    struct read_piece pieces[];
};

/* ---- runs ---- */

/* Bytes that are not what the index says are asked for this often: a proxy or one of several hosts
 * may have damaged them, but what is wrong each time stays so. */
#define DAMAGED_ATTEMPTS 3u

enum run_state {
    RUN_FETCHING,  /* has nothing to decode until more of its range comes */
    RUN_WAITING,   /* for the gzip window */
    RUN_DECODING,  /* is with the workers, or about to be; more may come meanwhile */
    RUN_SUSPENDED, /* nobody wants what comes next; the decoder is kept for when somebody does */
};

/*
 * Chunks first to last, decoded in one go from one range, while it comes; or,
 * where chunks continue each other for long, from one range after the other,
 * for as long as somebody wants a chunk ahead.
 */
struct run {
    struct layer_device *device;
    enum run_state state;
    enum urgency urgency;         /* of the most urgent chunk that it was begun or extended for */
    enum memory_kind memory_kind; /* what its memory is held as */
    size_t piece;                 /* the longest range it asks for at once */
    bool ahead;                   /* its range was asked for when nobody waited */
    size_t ahead_left;            /* bytes of that range that have not come */
    bool neighbours;              /* the link was idle, so they come along */
    bool counted;                 /* its range is one of those that are under way */
    uint32_t first, last;
    uint32_t next;                 /* the chunk to be decoded next */
    uint32_t wanted_last;          /* the furthest chunk that somebody wants */
    uint64_t start, end, fetched;  /* in the blob */
    struct range_request *request; /* NULL: none is under way */
    bool failed;                   /* the last range; told when what came of it is decoded */
    char *failure;                 /* why; NULL: out of memory */
    bool had_its_time;             /* it failed: as range_request_had_its_time() */
    struct body_pieces body;       /* not decoded yet */
    size_t body_length;
    struct window_group_entry *windows; /* NULL: needs none */
    struct chunk_decoder *decoder;
    /* Held; SUSPENDED: charged. A decoder that is suspended says itself what it has. */
    size_t body_memory;    /* for what has come and is to come of the range */
    size_t decoded_memory; /* for the chunk that is being decoded */
    size_t decoder_memory;
    unsigned attempts;
    uint32_t damaged; /* the chunk that they were made for */
    struct job job;
    TAILQ_ENTRY(run) link;
    STAILQ_ENTRY(run) action;
};

enum windows_state {
    WINDOWS_FOLLOWING, /* comes with another group that is being fetched */
    WINDOWS_LOADING,   /* from the cache directory */
    WINDOWS_FETCHING,  /* from the registry */
    WINDOWS_CHECKING,  /* against the digest */
    WINDOWS_READY,
    WINDOWS_FAILED, /* no longer in the list; freed when its last user leaves */
};

/* The compressed bytes of a group of windows. */
struct window_group_entry {
    struct layer_device *device;
    uint32_t group;
    enum windows_state state;
    struct buffer data;
    char *failure;     /* FAILED: why; NULL: out of memory */
    bool had_its_time; /* FAILED: as range_request_had_its_time() */
    unsigned users;    /* runs */
    unsigned attempts;
    struct range_request *request;
    uint32_t asked_first, asked_count; /* groups that it asks for, one of which is `group` */
    struct buffer body;                /* CHECKING: of all these */
    struct window_group_entry *leader; /* FOLLOWING: with which it comes */
    struct job job;
    TAILQ_ENTRY(window_group_entry) link; /* least recently used first */
};

/* ---- the data path and its devices ---- */

struct path_counters {
    _Atomic uint64_t chunks_fetched, bytes_fetched, bytes_decoded, chunks_in_flight,
        window_bytes_fetched, chunks_damaged, store_errors;
};

/* Under the lock. */
struct noted_error {
    char *text; /* NULL: there was none */
    uint64_t at;
};

struct recent_failure {
    const struct layer_device *device; /* NULL: none */
    uint32_t chunk;
    uint64_t at; /* milliseconds */
};
#define RECENT_FAILURES 64u

/* A bound that is used up in ranges and comes back with time. */
struct fill_rate {
    uint64_t bytes_per_second; /* 0: no bound */
    int64_t left;              /* bytes; less than 0 after a range that was longer */
    uint64_t counted_at;       /* milliseconds */
};

TAILQ_HEAD(chunk_queue, active_chunk);
TAILQ_HEAD(read_queue, device_read);

/* Ranges of several runs for one request. */
struct run_batch {
    unsigned number;  /* 0: there is none */
    unsigned count;   /* ranges */
    uint64_t length;  /* bytes of theirs */
    struct run *last; /* the last of them; counts for all */
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

/* Where a layer is asked for (layer_places.c). Requests and messages look at it without the lock,
 * so one that is not used any more stays until the device is freed. */
struct layer_place {
    struct layer_place *next; /* to be asked after it; under the lock */
    char *repository;
    char registry[];
};

#define CHUNK_BUCKETS 256u

/* One who goes forward through a layer. */
struct ahead_reader {
    uint32_t next;         /* behind the last chunk that it touched; 0: there is no such reader */
    uint32_t end;          /* chunks before it were touched or fetched ahead */
    uint64_t window;       /* bytes of the stream that are fetched ahead next; 0: one chunk */
    _Atomic uint32_t mark; /* the chunk at which they are; 0: none */
    uint64_t heard_of;     /* in the order of reads */
};
#define AHEAD_READERS 4u

struct layer_device {
    struct data_path *path;
    _Atomic(struct layer_place *) place; /* the first; written under the lock */
    const struct chunk_table *table;
    struct digest windows_digest;
    struct layer_cache *cache;
    char name[20];                 /* the blob's digest, shortened, for messages */
    _Atomic uint8_t *states;       /* enum chunk_state by chunk; written under the lock */
    _Atomic uint32_t *generations; /* by chunk: the last one that this process has verified */
    _Atomic uint8_t *touched;      /* by chunk: 1 once it was read */
    uint8_t *profiled;             /* by chunk: 1 where a profile names it; or NULL */
    struct active_chunk *active[CHUNK_BUCKETS];
    struct ahead_reader readers[AHEAD_READERS];
    uint64_t heard_of;
    unsigned busy; /* reads, runs, checks, stores, requests that are alive */
    _Atomic bool closing;
    _Atomic bool refused; /* layer_device_refuse() */
    _Atomic uint64_t chunks_fetched, bytes_fetched;
    struct noted_error last_error;
};

static inline const struct layer_place *device_place(const struct layer_device *device)
{
    return atomic_load_explicit(&device->place, memory_order_acquire);
}

static inline bool chunk_is_profiled(const struct layer_device *device, uint32_t chunk)
{
    return device->profiled && device->profiled[chunk];
}

static inline enum chunk_state chunk_state(const struct layer_device *device, uint32_t chunk)
{
    return (enum chunk_state)atomic_load_explicit(&device->states[chunk], memory_order_acquire);
}

/* The generation in which the chunk is present; 0: it is not, or no longer. */
static inline uint32_t chunk_present(const struct layer_device *device, uint32_t chunk)
{
    if (chunk_state(device, chunk) != CHUNK_PRESENT) return 0;
    uint32_t generation = atomic_load_explicit(&device->generations[chunk], memory_order_relaxed);
    return layer_cache_holds(device->cache, chunk, generation) ? generation : 0;
}

/* ---- data_path.c ---- */

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

/* Under the lock. */
void device_busy(struct layer_device *device);
void device_idle(struct layer_device *device);

/* ---- thread_buffer.c ---- */

/* A buffer of this thread for `length` bytes; NULL: out of memory. Give it back after use. */
uint8_t *thread_buffer_take(size_t length);
void thread_buffer_give(uint8_t *buffer);

/* ---- device_read.c and read_load.c ---- */

void read_park(struct layer_device *device, struct device_reader *reader, uint64_t offset,
               size_t length, size_t data_length, uint32_t first_chunk, uint32_t last_chunk,
               device_read_done *done, void *context);
/* Under the lock. */
void read_await(struct device_read *read, struct actions *actions);
void read_unreference(struct device_read *read, struct actions *actions);
void read_piece_is_here(struct read_piece *piece, struct actions *actions);
void read_fail(struct device_read *read, struct actions *actions);
/* Milliseconds since it was parked. */
uint64_t read_has_waited(const struct device_read *read);
/* Too little time is left for another range. */
bool read_is_nearly_over(const struct device_read *read);
/* Ends the parked reads whose time is over. */
void read_expire_due(struct data_path *path, struct actions *actions);
void read_start_loads(struct data_path *path, struct actions *actions);
/* Without the lock. */
void read_answer(struct device_read *read);
void read_answer_failure(struct device_read *read);
void read_answer_expired(struct device_read *read);
void read_load(struct device_read *read);
void read_release(struct device_read *read);
void read_reply(const struct device_read *read, const void *data, ssize_t result);
/* Where the piece is in its chunk and in the read. */
void read_piece_range(const struct read_piece *piece, size_t *ret_in_chunk, size_t *ret_in_read,
                      size_t *ret_length);
/* The pieces that are in memory, and the zeros behind the stream's end. */
void read_copy_pieces(const struct device_read *read, uint8_t *buffer);

/* ---- recent_failure.c; under the lock ---- */

void failure_note(const struct layer_device *device, uint32_t chunk);
bool failure_is_recent(const struct layer_device *device, uint32_t chunk);
/* Before the device is freed: another may get its address. */
void failures_forget_device(const struct layer_device *device);

/* ---- layer_places.c; under the lock unless said otherwise ---- */

/* Without the lock. NULL: out of memory. */
struct layer_place *layer_place_new(const char *registry, const char *repository);
void layer_places_free(struct layer_device *device);
/* The first, and those behind it; NULL: there are no more. */
const struct layer_place *layer_place_get(const struct layer_device *device, unsigned position);
/* It is asked first from now on. */
void layer_place_prefer(struct layer_device *device, const struct layer_place *preferred);

/* ---- chunk_state.c; all under the lock unless said otherwise ---- */

struct active_chunk *active_chunk_find(const struct layer_device *device, uint32_t chunk);
/* Makes `piece` wait, or gives it the bytes, or neither: the chunk is in the cache file. -1: out of
 * memory. */
int chunk_await(struct layer_device *device, struct read_piece *piece, struct actions *actions);
/* A piece that waits does so no longer; a chunk that nobody waits for is not fetched, unless that
 * has begun. */
void chunk_forsake(struct read_piece *piece, struct actions *actions);
/* Nobody waits for it, or it failed: the chunk is absent again and its record gone. Supplies get
 * `result`. */
void chunk_give_up(struct active_chunk *record, int result, struct actions *actions);
/* Somebody waits for it, or a supply has named it. */
bool chunk_is_needed(const struct active_chunk *record);
/* A supply has named it: taken over. */
void chunk_owe(struct layer_device *device, struct supply_return *owed, struct actions *actions);
/* WANTED chunks that nobody needs any more, of all devices or of one, are given up. */
void chunk_drop_unneeded(struct data_path *path, struct actions *actions);
void chunk_drop_wanted(const struct layer_device *device, struct actions *actions);
/* Every read that waits for it ends with EIO. Not for WANTED chunks. */
void chunk_fail(struct active_chunk *record, struct actions *actions);
/* Only those that are nearly over do; the others go on waiting. True: there were some. */
bool chunk_fail_old_reads(struct active_chunk *record, struct actions *actions);
/* When the last of those who wait for it gives up; 0: nobody waits. */
uint64_t chunk_wanted_until(const struct active_chunk *record);
/* Waits for a run (once more); `first` puts it before all others. */
void chunk_want(struct active_chunk *record, bool first, struct actions *actions);
void chunk_fetching(struct active_chunk *record);
/* A verified chunk out of a run; takes `data`, whose length is counted in the budget already. */
void chunk_arrived(struct layer_device *device, uint32_t chunk, uint8_t *data, size_t length,
                   struct actions *actions);
/* The chunk is absent, where it was present in a generation that does not hold any more. */
void chunk_refresh(struct layer_device *device, uint32_t chunk);
/* What was loaded from the cache file in that generation is not right: it holds no more. */
void chunk_damaged(struct layer_device *device, uint32_t chunk, uint32_t generation);
void chunk_start_checks(struct data_path *path, struct actions *actions);
void chunk_drop_kept(struct data_path *path, const struct layer_device *device,
                     struct actions *actions);
void chunk_bytes_unreference(struct data_path *path, struct chunk_bytes *bytes,
                             struct actions *actions);
/* Without the lock. */
void chunk_check(struct active_chunk *record);
void chunk_store(struct active_chunk *record);

/* ---- supply.c; under the lock unless said otherwise ---- */

int supply_init_ahead(struct data_path *path, struct error **error);
void supply_free_ahead(struct data_path *path);
/* The chunk is to be fetched ahead of a reader, unless it is here or on its way. */
void supply_name(struct layer_device *device, uint32_t chunk, struct actions *actions);
/* Asks supplies for chunks, as many as they may have out. */
void supply_take(struct data_path *path, struct actions *actions);
/* Without the lock. */
void supply_remove_all(struct data_path *path);
/* Who had nothing may have something now. */
void supply_look_again(struct data_path *path);
/* All of these go back with `result`. */
void supply_give_back(struct supply_returns *owed, int result, struct actions *actions);
/* Those of supplies that were taken away are dropped. */
void supply_drop_gone(struct supply_returns *owed);
/* Before the lock is let go: decides which callbacks are still due. */
void supply_prepare_calls(struct supply_returns *returns);
/* Without the lock. */
void supply_call(const struct supply_returns *returns);
/* Under the lock again; empties the list. */
void supply_called(struct data_path *path, struct supply_returns *returns);
/* Whether a range for SUPPLY_FILL may be asked for now; if not, the timer is set. */
bool fill_rate_allows(struct data_path *path);
void fill_rate_use(struct data_path *path, uint64_t bytes);

/* ---- read_ahead.c ---- */

/* Under the lock: a read of chunks first to last waits for the registry. */
void ahead_missed(struct layer_device *device, uint32_t first, uint32_t last,
                  struct actions *actions);
/* Under the lock: it does not. */
void ahead_found(struct layer_device *device, uint32_t first, uint32_t last,
                 struct actions *actions);
/* The same without the lock. */
void ahead_hit(struct layer_device *device, uint32_t first, uint32_t last);

/* ---- the files of runs; under the lock unless said otherwise ---- */

void run_start_wanted(struct data_path *path, struct actions *actions);
/* The longest piece of a blob that is asked for at once. */
size_t run_piece_limit(const struct data_path *path);
/* Works out the memory that the run needs, for `wanted_last`. */
void run_measure(struct run *run);
/* `first` and `last` are set: where in the blob that is, and where it begins. */
void run_place(struct run *run);
/* A chunk that neither continues another nor is continued, nor is here or on its way. */
bool run_may_take(const struct layer_device *device, uint32_t chunk);
/* Of the blob, for chunks first to last. */
uint64_t run_blob_length(const struct chunk_table *table, uint32_t first, uint32_t last);
/* Takes along what lies behind the run, if the link has nothing else to do. */
void neighbours_take_behind(struct run *run);
/* For a run that took neighbours: those in front of it, as far as memory allows. */
void neighbours_start_before(const struct run *demanded, struct actions *actions);
size_t run_memory(const struct run *run);
struct run *run_in_place(const struct layer_device *device, uint32_t first, uint32_t last);
/* With its memory held: asks for the window and the blob's bytes at the same time. */
void run_begin(struct run *run, struct actions *actions);
/* A run that will come to `chunk`, or NULL. */
struct run *run_toward(const struct layer_device *device, uint32_t chunk);
void run_extend(struct run *run, uint32_t chunk, enum urgency urgency, struct actions *actions);
/* A chunk that is on its way in a run is as urgent as this now. */
void run_hurry(const struct layer_device *device, uint32_t chunk, enum urgency urgency);
void run_end(struct run *run, struct actions *actions);
/* The whole run cannot be had: its readers get EIO. */
void run_fail(struct run *run, const char *reason, struct actions *actions);
/* Those up to chunk `last` cannot be had; the others are wanted again. */
void run_fail_until(struct run *run, uint32_t last, const char *reason, struct actions *actions);
/* The range was tried in vain for as long as those wait who asked for it; who has joined them since
 * asks anew. */
void run_out_of_time(struct run *run, const char *reason, struct actions *actions);
/* When the last of those who wait for one of its chunks gives up; 0: nobody waits. */
uint64_t run_wanted_until(const struct run *run);
/* Goes to the workers, or on to whatever it needs next; not while the workers have it. */
void run_go_on(struct run *run, struct actions *actions);
/* Goes on if it has waited for its window. */
void run_continue(struct run *run, struct actions *actions);
/* Drops what was fetched, and the decoder; goes on from the chunk where that failed. */
void run_start_again(struct run *run, struct actions *actions);
/* The memory held for its body is no more than it still needs. */
void run_body_used(struct run *run);
void run_suspend(struct run *run, struct actions *actions);
void run_resume(struct run *run, struct actions *actions);
void run_let_memory_go(struct run *run);
void run_drop_body(struct run *run);
/* Ends what can be ended now, because the device closes. */
void run_close_device(struct layer_device *device, struct actions *actions);
void run_decode_job(struct job *job);
/* Without the lock. */
void run_free(struct run *run);

/* ---- window_cache.c; under the lock ---- */

/* The group, on its way or there; NULL: out of memory. Each use is ended by window_group_leave().
 */
struct window_group_entry *window_group_use(struct layer_device *device, uint32_t group);
void window_group_leave(struct window_group_entry *entry);
void window_group_close_device(struct layer_device *device);
/* After the device's last work: frees what it has. */
void window_group_forget_device(struct layer_device *device);

#endif
