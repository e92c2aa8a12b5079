#include "index/file-tree-internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* A short entry can imply two thousand directories: this bounds what a hostile layer may cost. */
#define NAMES_MAX (8u << 20)

static uint64_t fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash_of(const struct file_tree *tree, uint32_t directory, const char *text,
                        size_t length)
{
    uint64_t hash = tree->seed ^ directory;
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = fold(hash ^ word, 0x9e3779b97f4a7c15);
    }
    uint64_t rest = length;
    for (size_t i = 0; i < length; i++)
        rest = rest << 8 | (uint8_t)text[i];
    hash = fold(hash ^ rest, 0xd6e8feb86659fd93);
    return (uint32_t)fold(hash, tree->seed | 1);
}

bool tree_inode_is_directory(const struct tree_inode *inode)
{
    return !inode->entry || inode->entry->type == ENTRY_DIRECTORY;
}

static int slots_resize(struct file_tree *tree, uint32_t count)
{
    struct tree_slot *slots = malloc(count * sizeof *slots);
    if (!slots) return -1;
    memset(slots, 0xff, count * sizeof *slots);
    for (uint32_t i = 0; i < tree->slot_count; i++) {
        if (tree->slots[i].name == TREE_NONE) continue;
        uint32_t at = tree->slots[i].hash & (count - 1);
        while (slots[at].name != TREE_NONE)
            at = (at + 1) & (count - 1);
        slots[at] = tree->slots[i];
    }
    free(tree->slots);
    tree->slots = slots;
    tree->slot_count = count;
    return 0;
}

static void slots_insert(struct file_tree *tree, uint32_t hash, uint32_t name)
{
    uint32_t mask = tree->slot_count - 1;
    uint32_t at = hash & mask;
    while (tree->slots[at].name != TREE_NONE)
        at = (at + 1) & mask;
    tree->slots[at] = (struct tree_slot){ hash, name };
}

/* Moves later ones of the run back, so that no tombstones are needed. */
static void slots_remove(struct file_tree *tree, uint32_t hash, uint32_t name)
{
    uint32_t mask = tree->slot_count - 1;
    uint32_t hole = hash & mask;
    while (tree->slots[hole].name != name)
        hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; tree->slots[at].name != TREE_NONE; at = (at + 1) & mask) {
        uint32_t home = tree->slots[at].hash & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            tree->slots[hole] = tree->slots[at];
            hole = at;
        }
    }
    tree->slots[hole].name = TREE_NONE;
}

int file_tree_init(struct file_tree *tree, size_t expected, struct error **error)
{
    *tree = (struct file_tree){ .free_names = TREE_NONE, .free_inodes = TREE_NONE };
    if (getrandom(&tree->seed, sizeof tree->seed, 0) != sizeof tree->seed)
        tree->seed = (uint64_t)(uintptr_t)tree; /* only collisions depend on it */
    if (expected > NAMES_MAX) expected = NAMES_MAX;
    tree->name_capacity = tree->inode_capacity = (uint32_t)expected + 16;
    tree->names = malloc(tree->name_capacity * sizeof *tree->names);
    tree->inodes = malloc(tree->inode_capacity * sizeof *tree->inodes);
    uint32_t slot_count = 64;
    while (slot_count < 2 * tree->name_capacity)
        slot_count *= 2;
    if (!tree->names || !tree->inodes || slots_resize(tree, slot_count) < 0) {
        file_tree_free(tree);
        return error_set_memory(error);
    }
    tree->names[0] = (struct tree_name){
        .text = "", .parent = TREE_NONE, .next = TREE_NONE, .previous = TREE_NONE
    };
    tree->inodes[0] = (struct tree_inode){ .name_count = 1, .first_child = TREE_NONE };
    tree->name_count = tree->inode_count = tree->live_names = tree->live_inodes = 1;
    return 0;
}

static void *copy_of(const void *from, size_t count, size_t capacity, size_t size)
{
    void *to = calloc(capacity, size);
    if (to) memcpy(to, from, count * size);
    return to;
}

int file_tree_copy(struct file_tree *ret, const struct file_tree *tree, struct error **error)
{
    *ret = *tree;
    ret->names = copy_of(tree->names, tree->name_count, tree->name_capacity, sizeof *tree->names);
    ret->inodes =
        copy_of(tree->inodes, tree->inode_count, tree->inode_capacity, sizeof *tree->inodes);
    ret->slots = copy_of(tree->slots, tree->slot_count, tree->slot_count, sizeof *tree->slots);
    if (ret->names && ret->inodes && ret->slots) return 0;
    file_tree_free(ret);
    return error_set_memory(error);
}

void file_tree_free(struct file_tree *tree)
{
    free(tree->names);
    free(tree->inodes);
    free(tree->slots);
    *tree = (struct file_tree){ 0 };
}

uint32_t file_tree_find(const struct file_tree *tree, uint32_t directory, const char *text,
                        size_t length)
{
    uint32_t hash = hash_of(tree, directory, text, length);
    uint32_t mask = tree->slot_count - 1;
    for (uint32_t at = hash & mask; tree->slots[at].name != TREE_NONE; at = (at + 1) & mask) {
        if (tree->slots[at].hash != hash) continue;
        const struct tree_name *name = &tree->names[tree->slots[at].name];
        if (name->parent == directory && name->length == length &&
            memcmp(name->text, text, length) == 0)
            return tree->slots[at].name;
    }
    return TREE_NONE;
}

/* Room for one more of each, before anything is changed. */
static int make_room(struct file_tree *tree, struct error **error)
{
    if (tree->live_names >= NAMES_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "the image has more than %u files", NAMES_MAX);
    if (tree->free_names == TREE_NONE && tree->name_count == tree->name_capacity) {
        uint32_t capacity = tree->name_capacity * 2;
        struct tree_name *names = reallocarray(tree->names, capacity, sizeof *names);
        if (!names) return error_set_memory(error);
        tree->names = names;
        tree->name_capacity = capacity;
    }
    if (tree->free_inodes == TREE_NONE && tree->inode_count == tree->inode_capacity) {
        uint32_t capacity = tree->inode_capacity * 2;
        struct tree_inode *inodes = reallocarray(tree->inodes, capacity, sizeof *inodes);
        if (!inodes) return error_set_memory(error);
        tree->inodes = inodes;
        tree->inode_capacity = capacity;
    }
    if (tree->live_names >= tree->slot_count / 2 && slots_resize(tree, tree->slot_count * 2) < 0)
        return error_set_memory(error);
    return 0;
}

static uint32_t take_name(struct file_tree *tree)
{
    uint32_t name = tree->free_names;
    if (name == TREE_NONE) return tree->name_count++;
    tree->free_names = tree->names[name].next;
    return name;
}

static uint32_t take_inode(struct file_tree *tree)
{
    uint32_t inode = tree->free_inodes;
    if (inode == TREE_NONE) return tree->inode_count++;
    tree->free_inodes = tree->inodes[inode].first_child;
    return inode;
}

int file_tree_link(struct file_tree *tree, uint32_t directory, const char *text, size_t length,
                   uint32_t inode, uint32_t layer, uint32_t *ret, struct error **error)
{
    if (make_room(tree, error) < 0) return -1;
    uint32_t position = take_name(tree);
    struct tree_inode *parent = tree_inode_of(tree, directory);
    struct tree_name *name = &tree->names[position];
    *name = (struct tree_name){
        .text = text,
        .length = (uint32_t)length,
        .hash = hash_of(tree, directory, text, length),
        .parent = directory,
        .inode = inode,
        .next = parent->first_child,
        .previous = TREE_NONE,
        .layer = layer,
    };
    if (name->next != TREE_NONE) tree->names[name->next].previous = position;
    parent->first_child = position;
    parent->child_count++;
    if (tree_inode_is_directory(&tree->inodes[inode])) parent->directory_count++;
    tree->inodes[inode].name_count++;
    slots_insert(tree, name->hash, position);
    tree->live_names++;
    *ret = position;
    return 0;
}

int file_tree_add(struct file_tree *tree, uint32_t directory, const char *text, size_t length,
                  const struct entry *entry, uint32_t layer, uint32_t *ret, struct error **error)
{
    if (make_room(tree, error) < 0) return -1;
    uint32_t inode = take_inode(tree);
    tree->live_inodes++;
    tree->inodes[inode] = (struct tree_inode){
        .entry = entry, .layer = layer, .first_child = TREE_NONE, .pure_layer = layer
    };
    return file_tree_link(tree, directory, text, length, inode, layer, ret, error);
}

/* A name without children. */
static void remove_one(struct file_tree *tree, uint32_t position)
{
    struct tree_name *name = &tree->names[position];
    struct tree_inode *parent = tree_inode_of(tree, name->parent);
    struct tree_inode *inode = &tree->inodes[name->inode];
    if (name->previous == TREE_NONE)
        parent->first_child = name->next;
    else
        tree->names[name->previous].next = name->next;
    if (name->next != TREE_NONE) tree->names[name->next].previous = name->previous;
    parent->child_count--;
    if (tree_inode_is_directory(inode)) parent->directory_count--;
    slots_remove(tree, name->hash, position);
    if (--inode->name_count == 0) {
        inode->first_child = tree->free_inodes;
        tree->free_inodes = name->inode;
        tree->live_inodes--;
    }
    *name = (struct tree_name){ .inode = TREE_NONE, .next = tree->free_names };
    tree->free_names = position;
    tree->live_names--;
    tree->removed++;
}

void file_tree_remove(struct file_tree *tree, uint32_t name)
{
    /* Depth first, without recursion: a layer decides how deep the tree is. */
    uint32_t at = name;
    for (;;) {
        const struct tree_inode *inode = tree_inode_of(tree, at);
        if (tree_inode_is_directory(inode) && inode->first_child != TREE_NONE) {
            at = inode->first_child;
            continue;
        }
        uint32_t parent = tree->names[at].parent;
        remove_one(tree, at);
        if (at == name) return;
        at = parent;
    }
}

/* What is to be done with a directory whose content has been purged. */
static void settle(struct file_tree *tree, uint32_t position, uint32_t layer)
{
    struct tree_name *name = &tree->names[position];
    struct tree_inode *inode = &tree->inodes[name->inode];
    inode->pure_layer = layer;
    if (name->layer == layer) return;
    if (inode->first_child == TREE_NONE) {
        remove_one(tree, position);
    } else {
        inode->entry = NULL;
        name->layer = layer;
    }
}

void file_tree_purge(struct file_tree *tree, uint32_t directory, uint32_t layer)
{
    struct tree_inode *top = tree_inode_of(tree, directory);
    /* Each directory is gone through once a layer, however many markers name it. */
    if (top->pure_layer == layer) return;
    uint32_t inside = directory, at = top->first_child;
    for (;;) {
        if (at == TREE_NONE) {
            if (inside == directory) break;
            uint32_t left = inside;
            at = tree->names[left].next;
            inside = tree->names[left].parent;
            settle(tree, left, layer);
            continue;
        }
        const struct tree_inode *inode = tree_inode_of(tree, at);
        uint32_t next = tree->names[at].next;
        if (!tree_inode_is_directory(inode)) {
            if (tree->names[at].layer != layer) remove_one(tree, at);
            at = next;
        } else if (inode->pure_layer == layer) {
            settle(tree, at, layer);
            at = next;
        } else {
            inside = at;
            at = inode->first_child;
        }
    }
    tree_inode_of(tree, directory)->pure_layer = layer;
}

void file_tree_hide(struct file_tree *tree, uint32_t name, uint32_t layer)
{
    if (tree_inode_is_directory(tree_inode_of(tree, name))) {
        file_tree_purge(tree, name, layer);
        settle(tree, name, layer);
    } else if (tree->names[name].layer != layer) {
        remove_one(tree, name);
    }
}
