/* What the kinds of merge share (index/merge.h). */
#ifndef SLUICE_INDEX_MERGE_INTERNAL_H
#define SLUICE_INDEX_MERGE_INTERNAL_H

#include "index/file-tree-internal.h"
#include "index/merge.h"

/* A tree for `count` layers, with its root alone. Freed by file_tree_free(), also after a failure
 * if it was zeroed before. */
int merge_tree_init(struct file_tree *tree, const struct merge_layer *layers, size_t count,
                    struct error **error);
/* Applies layers[first] up to layers[count - 1] to a tree that has those below. */
int merge_onto(struct file_tree *tree, const struct merge_layer *layers, size_t first, size_t count,
               struct error **error);

#endif
