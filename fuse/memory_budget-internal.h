/* Bytes of fetched and decoded data that a data path holds; under its lock. */
#ifndef SLUICE_FUSE_MEMORY_BUDGET_INTERNAL_H
#define SLUICE_FUSE_MEMORY_BUDGET_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

/* Each kind may have one holder, whatever is used, unless the disk is about to give some back: so
 * everything moves on, and the limit is passed by one holder of each kind at the most. */
enum memory_kind {
    MEMORY_RUN,
    MEMORY_AHEAD, /* of runs that nobody waits for; only where the others leave room */
    MEMORY_CHECK,
    MEMORY_LOAD,
    MEMORY_KINDS
};

struct memory_budget {
    size_t limit, used, peak;
    size_t storing; /* of `used`: decoded bytes that are being written to the cache */
    unsigned holders[MEMORY_KINDS];
};

/* Becomes a holder of `bytes`; false: wait until something is given back. */
bool memory_hold(struct memory_budget *budget, enum memory_kind kind, size_t bytes);
void memory_let_go(struct memory_budget *budget, enum memory_kind kind, size_t bytes);
/* Counts bytes without a holder. */
void memory_charge(struct memory_budget *budget, size_t bytes);
/* Whether so much could be held. */
bool memory_has_room(const struct memory_budget *budget, enum memory_kind kind, size_t bytes);
void memory_release(struct memory_budget *budget, size_t bytes);

#endif
