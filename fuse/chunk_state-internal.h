/* The life of a chunk. Under the data path's lock unless said otherwise. */
#ifndef SLUICE_FUSE_CHUNK_STATE_INTERNAL_H
#define SLUICE_FUSE_CHUNK_STATE_INTERNAL_H

#include "fuse/supply-internal.h"
#include "fuse/worker_pool-internal.h"

struct read_piece;

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

TAILQ_HEAD(chunk_queue, active_chunk);

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

#endif
