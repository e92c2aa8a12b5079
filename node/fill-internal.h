/* What the two threads of a fill share. */
#ifndef SLUICE_NODE_FILL_INTERNAL_H
#define SLUICE_NODE_FILL_INTERNAL_H

#include <pthread.h>

#include "node/fill.h"
#include "node/image_check.h"

enum fill_state {
    FILL_WAITING, /* readers go first */
    FILL_FETCHING,
    FILL_PAUSED, /* the registry or the disk refused */
    FILL_NO_ROOM,
    FILL_CHECKING, /* all is there */
    FILL_COMPLETE, /* and it is true */
    FILL_FALSE,    /* the index is not */
};

struct fill {
    struct fill_options options;
    size_t layer_count;
    struct supply *supply;
    atomic_bool ending;
    pthread_t thread, checker;
    bool thread_runs, checker_runs;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum fill_state state;
    char *reason; /* of the state, or NULL */

    /* The pass over all layers. */
    bool open;    /* chunks may be named */
    size_t layer; /* what is named next */
    uint32_t chunk;
    uint64_t out;       /* bytes of chunks that were named and did not come back */
    bool again;         /* some came back without being stored */
    unsigned refusals;  /* in a row */
    unsigned pause_ms;  /* of the next pause */
    uint64_t paused_to; /* milliseconds */

    /* Of each layer. */
    bool *complete, *checked;
    bool *measured; /* of the pacing thread alone */
    uint64_t bytes_left;
    bool tree_checked, found_false;
};

/* With the lock held: waits for a change, or that long. */
void fill_wait(struct fill *fill, unsigned milliseconds);
/* With the lock held; `reason` may be NULL. */
void fill_set_state(struct fill *fill, enum fill_state state, const char *reason);

/* fill_check.c: a thread's function, with the fill. */
void *fill_check_run(void *argument);

#endif
