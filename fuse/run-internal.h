/*
 * Runs: run.c, which has their life, run_start.c, run_neighbours.c, run_decode.c, run_suspend.c and
 * run_failure.c. Under the data path's lock unless said otherwise.
 */
#ifndef SLUICE_FUSE_RUN_INTERNAL_H
#define SLUICE_FUSE_RUN_INTERNAL_H

#include "fuse/memory_budget-internal.h"
#include "fuse/range_request-internal.h"
#include "fuse/supply-internal.h"
#include "fuse/worker_pool-internal.h"
#include "index/chunk_decoder.h"

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

/* Ranges of several runs for one request. */
struct run_batch {
    unsigned number;  /* 0: there is none */
    unsigned count;   /* ranges */
    uint64_t length;  /* bytes of theirs */
    struct run *last; /* the last of them; counts for all */
};

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

#endif
