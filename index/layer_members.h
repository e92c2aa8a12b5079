/* The members of a layer's tar: each entry with the bytes of the stream that say it. */
#ifndef SLUICE_INDEX_LAYER_MEMBERS_H
#define SLUICE_INDEX_LAYER_MEMBERS_H

#include "index/entry_table.h"
#include "index/tar.h"

struct layer_member {
    struct tar_place place;
    const struct entry *entry; /* borrowed from the table; NULL: it is none */
};

/* In the order of the stream, without gaps. A zeroed struct is empty. */
struct layer_members {
    struct entry_table *table;
    struct layer_member *members;
    size_t count, capacity;
    uint64_t stream_length;
};

/* Reads a whole stream that is in memory; of the files' data nothing is touched. */
int layer_members_read(struct layer_members *ret, const void *stream, uint64_t length,
                       struct error **error);
void layer_members_free(struct layer_members *members);

/* Where the member ends: with the padding of its data, as far as the stream has it. */
uint64_t layer_member_end(const struct layer_members *members, size_t member);

#endif
