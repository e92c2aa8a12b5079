/* What the uppermost of some layers changes, as overlayfs stacks it on those below: both trees are
 * made, and compared. So a hard link to a file of a lower layer, a parent that the layer does not
 * name and a path that leads through a lower layer's link come out as they do in the whole tree,
 * and a directory that hides what was below needs no mark beside its whiteouts. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "index/erofs-internal.h"
#include "index/merge-internal.h"

/* Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories": 0/0. */
static const struct entry whiteout = { .type = ENTRY_CHARACTER_DEVICE, .path = "" };

/* The place of each name of `below` in `tree`; TREE_NONE: it is hidden there, or not needed. */
struct comparison {
    const struct file_tree *below;
    struct file_tree *tree;
    uint32_t layer;
    uint32_t *places;
};

/* Finds the name in the tree; where it is missing it gets a whiteout. */
static int compare_name(struct comparison *comparison, uint32_t position, struct error **error)
{
    const struct tree_name *name = &comparison->below->names[position];
    uint32_t directory = comparison->places[name->parent], whited_out;
    uint32_t *place = &comparison->places[position];
    *place = file_tree_find(comparison->tree, directory, name->text, name->length);
    if (*place != TREE_NONE) return 0;
    return file_tree_add(comparison->tree, directory, name->text, name->length, &whiteout,
                         comparison->layer, &whited_out, error);
}

/* Directories in both: only in these can something of the lower one be seen. */
static bool goes_on_inside(const struct comparison *comparison, uint32_t position)
{
    uint32_t place = comparison->places[position];
    return place != TREE_NONE &&
           tree_inode_is_directory(tree_inode_of(comparison->below, position)) &&
           tree_inode_is_directory(tree_inode_of(comparison->tree, place));
}

/* Depth first, without recursion: a layer decides how deep the tree is. */
static int add_whiteouts(struct comparison *comparison, struct error **error)
{
    const struct file_tree *below = comparison->below;
    uint32_t inside = TREE_ROOT, at = tree_inode_of(below, TREE_ROOT)->first_child;
    comparison->places[TREE_ROOT] = TREE_ROOT;
    for (;;) {
        if (at == TREE_NONE) {
            if (inside == TREE_ROOT) return 0;
            at = below->names[inside].next;
            inside = below->names[inside].parent;
            continue;
        }
        if (compare_name(comparison, at, error) < 0) return -1;
        if (goes_on_inside(comparison, at)) {
            inside = at;
            at = tree_inode_of(below, at)->first_child;
        } else {
            at = below->names[at].next;
        }
    }
}

/* Removes what neither is of the layer nor leads to something that is. */
static int prune(struct file_tree *tree, uint32_t layer, struct error **error)
{
    cleanup_free bool *needed = calloc(tree->name_count, sizeof *needed);
    if (!needed) return error_set_memory(error);
    needed[TREE_ROOT] = true;
    for (uint32_t i = 0; i < tree->name_count; i++) {
        if (tree->names[i].inode == TREE_NONE || tree->names[i].layer != layer) continue;
        for (uint32_t at = i; !needed[at]; at = tree->names[at].parent)
            needed[at] = true;
    }
    for (uint32_t i = 0; i < tree->name_count; i++)
        if (!needed[i] && tree->names[i].inode != TREE_NONE) file_tree_remove(tree, i);
    return 0;
}

static int compare(const struct file_tree *below, struct file_tree *tree, uint32_t layer,
                   struct error **error)
{
    cleanup_free uint32_t *places = calloc(below->name_count, sizeof *places);
    struct comparison comparison = {
        .below = below, .tree = tree, .layer = layer, .places = places
    };
    if (!places) return error_set_memory(error);
    return add_whiteouts(&comparison, error) < 0 ? -1 : prune(tree, layer, error);
}

int merge_difference(const struct merge_layer *layers, size_t count, struct buffer *ret_erofs,
                     struct error **error)
{
    struct file_tree below = { 0 }, tree = { 0 };
    /* Of one layer there is nothing to compare: all is its own. */
    if (count <= 1) return merge_layers(layers, count, ret_erofs, error);
    int status = merge_tree_init(&below, layers, count, error);
    if (status == 0) status = merge_onto(&below, layers, 0, count - 1, error);
    if (status == 0) status = file_tree_copy(&tree, &below, error);
    if (status == 0) status = merge_onto(&tree, layers, count - 1, count, error);
    if (status == 0) status = compare(&below, &tree, (uint32_t)count - 1, error);
    file_tree_free(&below);
    if (status == 0) status = erofs_write(&tree, layers, count, ret_erofs, error);
    file_tree_free(&tree);
    return status;
}
