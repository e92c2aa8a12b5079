/* Layers from a few words, and merged images as text, for tests. */
#ifndef SLUICE_TESTS_UNIT_TREE_MAKER_H
#define SLUICE_TESTS_UNIT_TREE_MAKER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "index/entry_table.h"
#include "index/erofs_image.h"
#include "index/merge.h"
#include "tests/tools/image_walk.h"

#define LAYER_LENGTH 1000000u
#define LAYERS_MAX   8

/* Appends, and aborts the test program when that is refused. */
static inline void layer_add(struct entry_table *table, const struct entry *entry)
{
    struct error *error = NULL;
    if (entry_table_append(table, entry, &error) < 0) {
        fprintf(stderr, "layer_add: %s\n", error_message(error));
        abort();
    }
}

/*
 * One entry a line: "d PATH MODE", "f PATH SIZE", "l PATH TARGET" (symbolic),
 * "h PATH TARGET" (hard), "p PATH" (fifo), "w PATH" (whiteout), "o PATH" (opaque). "." is the
 * root. The data of files lies at 512 times the number of the line.
 */
static inline struct entry_table *layer_of(const char *lines)
{
    struct entry_table *table = entry_table_new();
    char *copy = strdup(lines), *rest = copy;
    for (uint64_t number = 1; rest && *rest; number++) {
        char *line = strsep(&rest, "\n"), *kind = strsep(&line, " "), *path = strsep(&line, " ");
        struct entry entry = { .path = strcmp(path, ".") == 0 ? "" : path, .mode = 0644 };
        switch (*kind) {
        case 'd':
            entry.type = ENTRY_DIRECTORY;
            entry.mode = (uint32_t)strtoul(line, NULL, 8);
            break;
        case 'f':
            entry.type = ENTRY_REGULAR;
            entry.size = strtoull(line, NULL, 10);
            entry.data_offset = 512 * number;
            break;
        case 'l':
            entry.type = ENTRY_SYMLINK;
            entry.target = line;
            break;
        case 'h':
            entry.type = ENTRY_HARDLINK;
            entry.target = line;
            break;
        case 'p':
            entry.type = ENTRY_FIFO;
            break;
        case 'w':
            entry.type = ENTRY_WHITEOUT;
            break;
        case 'o':
            entry.type = ENTRY_OPAQUE;
            break;
        default:
            abort();
        }
        layer_add(table, &entry);
    }
    free(copy);
    return table;
}

/* A file of segments "OFFSET+LENGTH ...". */
static inline void layer_add_sparse(struct entry_table *table, const char *path, uint64_t size,
                                    uint64_t data_offset, const char *text)
{
    struct entry_segment segments[20];
    struct entry entry = { .type = ENTRY_REGULAR,
                           .path = path,
                           .size = size,
                           .data_offset = data_offset,
                           .sparse = true,
                           .segments = segments };
    while (*text) {
        char *next;
        uint64_t offset = strtoull(text, &next, 10);
        segments[entry.segment_count++] =
            (struct entry_segment){ offset, strtoull(next + 1, &next, 10) };
        text = next + (*next == ' ');
    }
    layer_add(table, &entry);
}

struct chain {
    struct merge_layer layers[LAYERS_MAX];
    uint64_t lengths[LAYERS_MAX];
    size_t count;
};

static inline void chain_add(struct chain *chain, struct entry_table *entries)
{
    struct merge_layer *layer = &chain->layers[chain->count];
    *layer = (struct merge_layer){ .entries = entries, .stream_length = LAYER_LENGTH };
    digest_of(&chain->count, sizeof chain->count, &layer->stream_digest);
    chain->lengths[chain->count++] = LAYER_LENGTH;
}

static inline void chain_free(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        entry_table_free((struct entry_table *)chain->layers[i].entries);
    chain->count = 0;
}

static inline void text_add(struct buffer *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline void text_add(struct buffer *text, const char *format, ...)
{
    char line[5000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || buffer_append(text, line, (size_t)length) < 0) abort();
}

struct tree_list {
    const struct erofs_image *image;
    struct buffer *text;
};

static inline void list_name(void *context, const char *path, const struct erofs_inode *inode)
{
    const struct tree_list *list = context;
    const struct erofs_image *image = list->image;
    struct buffer *text = list->text;
    const char *target;
    size_t length;
    struct erofs_extent extent = { 0 };
    const char *kinds = "?pc?d?b?f?l?s???";
    text_add(text, "%c %s", kinds[inode->mode >> 12], *path ? path : ".");
    if (S_ISDIR(inode->mode)) text_add(text, " %o", inode->mode & 07777);
    if (S_ISREG(inode->mode) && inode->size > 0 && erofs_image_map(image, inode, 0, &extent) == 0)
        text_add(text, " %llu@%u:%llu", (unsigned long long)inode->size, extent.device,
                 (unsigned long long)extent.device_offset / 512);
    if (S_ISLNK(inode->mode) && erofs_image_symlink(image, inode, &target, &length) == 0)
        text_add(text, " %.*s", (int)length, target);
    if (!S_ISDIR(inode->mode) && inode->link_count != 1) text_add(text, " x%u", inode->link_count);
    text_add(text, "\n");
}

/* One line for each name, as for layer_of(), in the order of a walk; a file's data as
 * SIZE@DEVICE:BLOCK, and " xN" where there are N hard links. */
static inline void list_tree(struct buffer *text, const struct erofs_image *image)
{
    struct tree_list list = { image, text };
    EXPECT(walk_image(image, list_name, &list));
}

#endif
