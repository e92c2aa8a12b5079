/*
 * Chunks that nobody waits for: who names them, and how they go back. Under the data path's lock
 * unless said otherwise.
 */
#ifndef SLUICE_FUSE_SUPPLY_INTERNAL_H
#define SLUICE_FUSE_SUPPLY_INTERNAL_H

#include <sys/queue.h>

#include "fuse/layer_device.h"

struct actions;

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

/* A bound that is used up in ranges and comes back with time. */
struct fill_rate {
    uint64_t bytes_per_second; /* 0: no bound */
    int64_t left;              /* bytes; less than 0 after a range that was longer */
    uint64_t counted_at;       /* milliseconds */
};

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

#endif
