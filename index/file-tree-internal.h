/*
 * The merged tree while layers are applied to it: names in directories, and the
 * inodes they stand for. Everything is in arrays and referred to by position,
 * so that a million files cost a hundred megabytes and few allocations. Texts
 * are borrowed from the entry tables.
 */
#ifndef SLUICE_INDEX_FILE_TREE_INTERNAL_H
#define SLUICE_INDEX_FILE_TREE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "index/entry_table.h"

#define TREE_NONE UINT32_MAX
#define TREE_ROOT 0 /* position of the root's name and of its inode */

struct tree_name {
    const char *text;  /* not NUL-terminated */
    uint32_t length;   /* at most 255 */
    uint32_t hash;     /* of parent and text */
    uint32_t parent;   /* name of the directory; TREE_NONE: the root */
    uint32_t inode;    /* TREE_NONE: free */
    uint32_t next;     /* among the parent's children, or among free names */
    uint32_t previous; /* likewise */
    uint32_t layer;    /* the layer that put this name here last */
};

struct tree_inode {
    const struct entry *entry; /* attributes and data; NULL: an implied directory */
    uint32_t layer;            /* whose stream holds the data */
    uint32_t name_count;       /* names of this inode; 0: free */
    uint32_t first_child;      /* directories: a name or TREE_NONE */
    uint32_t child_count;
    uint32_t directory_count; /* how many children are directories */
    uint32_t pure_layer;      /* directories: below is nothing that lower layers put there */
    /* for the writer */
    uint32_t children;    /* where its sorted children start */
    uint32_t number;      /* in the order of the image, from 1; 0: not placed yet */
    uint32_t xattr_bytes; /* as stored in the inode; 0: none */
    uint32_t data_block;  /* first block of data outside of the inode */
    uint64_t size;        /* bytes of data, also of directories */
    uint64_t offset;      /* of the inode in the image */
};

struct tree_slot {
    uint32_t hash, name; /* name TREE_NONE: empty */
};

struct file_tree {
    struct tree_name *names;
    uint32_t name_count, name_capacity, free_names, live_names;
    struct tree_inode *inodes;
    uint32_t inode_count, inode_capacity, free_inodes, live_inodes;
    struct tree_slot *slots; /* linear probing; a power of two, at most half full */
    uint32_t slot_count;
    uint64_t seed;    /* so that no layer can be made to collide */
    uint32_t removed; /* counts removals: positions kept from before may be stale */
};

/* `expected` names are likely. The tree starts with its root, an implied directory. */
int file_tree_init(struct file_tree *tree, size_t expected, struct error **error);
void file_tree_free(struct file_tree *tree);
/* Names and inodes have the same positions in both. */
int file_tree_copy(struct file_tree *ret, const struct file_tree *tree, struct error **error);

bool tree_inode_is_directory(const struct tree_inode *inode);
static inline struct tree_inode *tree_inode_of(const struct file_tree *tree, uint32_t name)
{
    return &tree->inodes[tree->names[name].inode];
}

/* The child's name, or TREE_NONE. */
uint32_t file_tree_find(const struct file_tree *tree, uint32_t directory, const char *text,
                        size_t length);
/* Each gives the new name in *ret. `text` is borrowed, and no child of `directory` yet.
 * ERROR_UNSUPPORTED when the tree grows beyond all measure. */
int file_tree_add(struct file_tree *tree, uint32_t directory, const char *text, size_t length,
                  const struct entry *entry, uint32_t layer, uint32_t *ret, struct error **error);
int file_tree_link(struct file_tree *tree, uint32_t directory, const char *text, size_t length,
                   uint32_t inode, uint32_t layer, uint32_t *ret, struct error **error);
/* Removes the name and all below it. Not for the root. */
void file_tree_remove(struct file_tree *tree, uint32_t name);
/* Removes what layers below `layer` put under the directory. A directory of theirs that holds
 * something of `layer` stays, but only as an implied one. */
void file_tree_purge(struct file_tree *tree, uint32_t directory, uint32_t layer);
/* The same, and for the name itself. Not for the root. */
void file_tree_hide(struct file_tree *tree, uint32_t name, uint32_t layer);

#endif
