/*
 * In which order the members of a layer may stand, so that files which are read first come first
 * and every unpacker still makes the same tree of it.
 *
 * Files are moved, and what must follow them. All else stands before them in its old order. A layer
 * in which it could matter what is unpacked first keeps the order it has: with a path that is there
 * twice, a path through anything but a directory (also through what a lower layer has as a symbolic
 * link), a hard link to what is not there before it, or a header that speaks for other members.
 */
#ifndef SLUICE_INDEX_MEMBER_ORDER_H
#define SLUICE_INDEX_MEMBER_ORDER_H

#include "index/layer_members.h"

/* The rank of what no profile names. */
#define RANK_NONE UINT32_MAX

/* Fills `ret` with the positions of all members in their new order. `ranks` has a number for each
 * member; those of files count, the lowest comes first. `lower` are the tables of the layers below.
 * *ret_kept tells that nothing was moved: nothing with a rank is there, or may be. */
int member_order(const struct layer_members *members, const uint32_t *ranks,
                 const struct entry_table *const *lower, size_t lower_count, size_t *ret,
                 bool *ret_kept, struct error **error);

#endif
