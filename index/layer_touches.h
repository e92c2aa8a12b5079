/*
 * What a profile says of one layer, as runs of its members' bytes: those of the files that it
 * names first, then those that lie in the same chunks and may have been read, too.
 */
#ifndef SLUICE_INDEX_LAYER_TOUCHES_H
#define SLUICE_INDEX_LAYER_TOUCHES_H

#include "index/chunk_table.h"
#include "index/layer_members.h"
#include "index/profile.h"

struct touch {
    size_t member;
    uint64_t offset, length; /* from the member's start */
    uint32_t entry;          /* of the profile */
    bool named;              /* it was the reason */
};

/* A zeroed struct is empty. */
struct layer_touches {
    struct touch *touches; /* in the order of the profile */
    size_t count, capacity;
    uint32_t *ranks; /* for each member, as member_order() takes them */
};

/* `table` is the one that the profile was made for; what it says of bytes that the layer does not
 * have counts for nothing. */
int layer_touches_find(struct layer_touches *ret, const struct layer_members *members,
                       const struct chunk_table *table, const struct profile *profile,
                       uint32_t layer, struct error **error);
void layer_touches_free(struct layer_touches *touches);

#endif
