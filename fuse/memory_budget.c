#include "fuse/memory_budget-internal.h"

void memory_charge(struct memory_budget *budget, size_t bytes)
{
    budget->used += bytes;
    if (budget->used > budget->peak) budget->peak = budget->used;
}

void memory_release(struct memory_budget *budget, size_t bytes)
{
    budget->used -= bytes;
}

/* Runs may wait for the network for long: a part is left for what is on this node, and by those
 * that nobody waits for, for readers. */
static size_t limit_for(const struct memory_budget *budget, enum memory_kind kind)
{
    switch (kind) {
    case MEMORY_AHEAD:
        return budget->limit / 2;
    case MEMORY_RUN:
        return budget->limit - budget->limit / 4;
    default:
        return budget->limit;
    }
}

/* What is fetched ahead has a right to go beyond the limit only when nobody else has anything. */
static bool must_wait(const struct memory_budget *budget, enum memory_kind kind)
{
    unsigned holders = budget->holders[kind];
    for (unsigned i = 0; kind == MEMORY_AHEAD && i < MEMORY_KINDS; i++)
        holders += budget->holders[i];
    return holders > 0 || budget->storing > 0;
}

bool memory_has_room(const struct memory_budget *budget, enum memory_kind kind, size_t bytes)
{
    size_t limit = limit_for(budget, kind);
    bool fits = budget->used <= limit && bytes <= limit - budget->used;
    return fits || !must_wait(budget, kind);
}

bool memory_hold(struct memory_budget *budget, enum memory_kind kind, size_t bytes)
{
    if (!memory_has_room(budget, kind, bytes)) return false;
    budget->holders[kind]++;
    memory_charge(budget, bytes);
    return true;
}

void memory_let_go(struct memory_budget *budget, enum memory_kind kind, size_t bytes)
{
    budget->holders[kind]--;
    memory_release(budget, bytes);
}
