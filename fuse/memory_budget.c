#include "fuse/layer_device-internal.h"

void memory_charge(struct memory_budget *budget, size_t bytes)
{
    budget->used += bytes;
    if (budget->used > budget->peak) budget->peak = budget->used;
}

void memory_release(struct memory_budget *budget, size_t bytes)
{
    budget->used -= bytes;
}

bool memory_hold(struct memory_budget *budget, enum memory_kind kind, size_t bytes)
{
    /* Runs may wait for the network for long: a part is left for what is on this node. */
    size_t limit = kind == MEMORY_RUN ? budget->limit - budget->limit / 4 : budget->limit;
    bool fits = budget->used <= limit && bytes <= limit - budget->used;
    if (!fits && (budget->holders[kind] > 0 || budget->storing > 0)) return false;
    budget->holders[kind]++;
    memory_charge(budget, bytes);
    return true;
}

void memory_let_go(struct memory_budget *budget, enum memory_kind kind, size_t bytes)
{
    budget->holders[kind]--;
    memory_release(budget, bytes);
}
