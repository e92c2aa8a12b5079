/*
 * Writing an image: three steps over one state. erofs_plan.c sorts and measures,
 * and gives each inode its place; erofs_writer.c writes.
 */
#ifndef SLUICE_INDEX_EROFS_WRITER_INTERNAL_H
#define SLUICE_INDEX_EROFS_WRITER_INTERNAL_H

#include "index/erofs-internal.h"

/* A directory's own entries among its children. */
#define NAME_DOT    (UINT32_MAX - 1)
#define NAME_DOTDOT (UINT32_MAX - 2)

struct erofs_child {
    uint64_t key; /* the first eight bytes, so that comparing rarely needs the name */
    uint32_t name;
};

struct erofs_writer {
    struct file_tree *tree;
    const struct merge_layer *layers;
    uint32_t layer_count;
    struct erofs_child *children; /* of all directories, each one's sorted */
    uint32_t child_count;
    uint32_t *directories; /* names, in the order of the walk */
    uint32_t directory_count;
    uint32_t *stack;
    uint32_t placed; /* inodes */
    uint64_t cursor; /* behind the last placed inode */
    uint64_t outside_blocks;
    uint32_t first_outside;
    uint64_t sparse_blocks;  /* of the sparse device; 0: there is none */
    uint64_t sparse_records; /* of the sparse map */
    uint8_t *image;
    uint64_t next_sparse_block;
    uint8_t *next_record; /* of the sparse map, behind the image */
};

/* Fills in the tree's fields for the writer: sizes first, then places. */
int erofs_measure(struct erofs_writer *writer, struct error **error);
int erofs_place_all(struct erofs_writer *writer, struct error **error);

/* Layers, and the sparse device if there is one. */
uint32_t erofs_device_count(const struct erofs_writer *writer);
const char *erofs_child_text(const struct erofs_writer *writer, uint32_t name, size_t *ret_length);
/* How many children from `first` on fit in one block, and the bytes they take. */
uint32_t erofs_fill_block(const struct erofs_writer *writer, uint32_t first, uint32_t end,
                          uint32_t *ret_bytes);
uint32_t erofs_mode_of(const struct tree_inode *inode);
unsigned erofs_chunk_bits_of(const struct tree_inode *inode);
struct erofs_placement erofs_place_at(const struct tree_inode *inode, uint64_t cursor);

#endif
