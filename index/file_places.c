#include "index/file_places.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define TAR_BLOCK 512u
/* PATH_MAX; what is below has no name that a program could open it by. */
#define PATH_ROOM 4096u

struct open_directory {
    struct erofs_inode inode;
    uint64_t cookie;
    size_t path_length; /* of what is above the next name, with its '/' */
};

struct walk {
    const struct erofs_image *image;
    struct file_place **places; /* sorted */
    size_t count;
    char path[PATH_ROOM];
    struct open_directory *stack;
    size_t depth, capacity;
    uint64_t entries_left; /* the memory may be a file that somebody changes: the walk ends */
};

static int compare_places(const void *left, const void *right)
{
    const struct file_place *a = *(struct file_place *const *)left,
                            *b = *(struct file_place *const *)right;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* The first place of `layer` at `offset` or behind it. */
static size_t first_place(const struct walk *walk, uint32_t layer, uint64_t offset)
{
    size_t low = 0, high = walk->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct file_place *place = walk->places[middle];
        if (place->layer < layer || (place->layer == layer && place->offset < offset))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where a file's data, which is in one piece, begins; false: it has none. */
static bool find_data(const struct walk *walk, const struct erofs_inode *inode,
                      struct erofs_extent *ret)
{
    for (uint64_t offset = 0; offset < inode->size; offset += ret->length) {
        if (erofs_image_map(walk->image, inode, offset, ret) < 0 || ret->length == 0) return false;
        if (ret->device) return true;
    }
    return false;
}

static int name_places_in(struct walk *walk, const struct erofs_inode *inode)
{
    struct erofs_extent data;
    if (!find_data(walk, inode, &data)) return 0;
    uint64_t start = data.device_offset < TAR_BLOCK ? 0 : data.device_offset - TAR_BLOCK;
    uint64_t end = data.device_offset + erofs_image_stored_bytes(walk->image, inode);
    end += TAR_BLOCK - 1;
    end -= end % TAR_BLOCK;
    for (size_t i = first_place(walk, data.device - 1, start); i < walk->count; i++) {
        struct file_place *place = walk->places[i];
        if (place->layer != data.device - 1 || place->offset >= end) break;
        if (!place->path && !(place->path = strdup(walk->path))) return -1;
    }
    return 0;
}

static int enter(struct walk *walk, const struct erofs_inode *inode, size_t path_length)
{
    if (walk->depth == walk->capacity) {
        size_t capacity = walk->capacity ? 2 * walk->capacity : 32;
        struct open_directory *stack = realloc(walk->stack, capacity * sizeof *stack);
        if (!stack) return -1;
        walk->stack = stack;
        walk->capacity = capacity;
    }
    walk->stack[walk->depth++] = (struct open_directory){ *inode, 0, path_length };
    return 0;
}

static bool is_dots(const struct erofs_dirent *entry)
{
    return entry->name[0] == '.' &&
           (entry->name_length == 1 || (entry->name_length == 2 && entry->name[1] == '.'));
}

static int visit(struct walk *walk, const struct erofs_dirent *entry, size_t path_length)
{
    struct erofs_inode inode;
    size_t length = path_length + entry->name_length;
    if (entry->type != DT_DIR && entry->type != DT_REG) return 0;
    if (is_dots(entry) || length + 2 > PATH_ROOM ||
        erofs_image_inode(walk->image, entry->nid, &inode) < 0)
        return 0;
    memcpy(walk->path + path_length, entry->name, entry->name_length);
    walk->path[length] = '\0';
    if (entry->type == DT_REG) return name_places_in(walk, &inode);
    walk->path[length] = '/';
    return enter(walk, &inode, length + 1);
}

/* 0, or out of memory. What cannot be read (the file it is mapped from has changed) has no names.
 */
static int walk_tree(struct walk *walk)
{
    struct erofs_inode root;
    if (erofs_image_inode(walk->image, walk->image->root_nid, &root) < 0) return 0;
    if (enter(walk, &root, 0) < 0) return -1;
    while (walk->depth > 0 && walk->entries_left-- > 0) {
        struct open_directory *directory = &walk->stack[walk->depth - 1];
        struct erofs_dirent entry;
        if (erofs_image_readdir(walk->image, &directory->inode, directory->cookie, &entry) <= 0) {
            walk->depth--;
            continue;
        }
        directory->cookie = entry.next_cookie;
        if (visit(walk, &entry, directory->path_length) < 0) return -1;
    }
    return 0;
}

int file_places_name(const struct erofs_image *image, struct file_place *places, size_t count,
                     struct error **error)
{
    if (count == 0) return 0;
    struct walk *walk = calloc(1, sizeof *walk);
    cleanup_free struct file_place **sorted = calloc(count, sizeof(struct file_place *));
    int result = -1;
    if (walk && sorted) {
        for (size_t i = 0; i < count; i++)
            sorted[i] = &places[i];
        qsort(sorted, count, sizeof(struct file_place *), compare_places);
        walk->image = image;
        walk->places = sorted;
        walk->count = count;
        /* A directory entry takes 12 bytes and more; each directory is left once. */
        walk->entries_left = image->size / 8 + image->inode_count;
        result = walk_tree(walk);
        free(walk->stack);
    }
    free(walk);
    return result < 0 ? error_set_memory(error) : 0;
}
