/* Which names the merged tree has; index/erofs_writer.c makes the image of it. */
#include <stdlib.h>
#include <string.h>

#include "index/erofs-internal.h"
#include "index/merge-internal.h"

#define SYMLINKS_MAX   255 /* as containerd and Go follow; the kernel stops at 40 */
#define PATH_BYTES_MAX 4095
/* A million entries take tens of millions. Links to long paths, followed for each entry, would
 * keep a hostile layer busy for hours. */
#define STEPS_MAX (1u << 27)
/* Components that must be made; more than any path has unless symbolic links spin them out. */
#define PENDING_MAX 16384

struct text {
    const char *start;
    size_t length;
};

/* Directories of the path before: the next one mostly shares them. */
struct trail {
    char path[PATH_BYTES_MAX + 1];
    size_t count;
    struct {
        size_t length; /* of the part of `path` that leads to the directory */
        uint32_t directory;
    } steps[PATH_BYTES_MAX / 2 + 1];
    uint32_t removed; /* file_tree's count when this was noted */
};

struct merger {
    struct file_tree *tree; /* borrowed */
    struct trail trail;
    uint32_t layer;
    unsigned links;  /* symbolic links followed for the present path */
    bool obstructed; /* walk_path() failed because a file is where a directory should be */
    uint64_t steps;  /* components walked in all */

    /* walk_path()'s work: what is still to be walked, innermost link target last */
    struct text todo[SYMLINKS_MAX + 1];
    /* ... and names that do not exist yet, below the directory that was reached */
    struct text *pending;
    size_t pending_count, pending_capacity;
};

static struct text directory_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return (struct text){ path, slash ? (size_t)(slash - path) : 0 };
}

static struct text base_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    return (struct text){ base, strlen(base) };
}

static int push_pending(struct merger *merger, struct text component, struct error **error)
{
    if (merger->pending_count == PENDING_MAX)
        return error_set(error, ERROR_INVALID, "symbolic links make its path too long");
    if (merger->pending_count == merger->pending_capacity) {
        size_t capacity = merger->pending_capacity ? merger->pending_capacity * 2 : 64;
        struct text *pending = reallocarray(merger->pending, capacity, sizeof *pending);
        if (!pending) return error_set_memory(error);
        merger->pending = pending;
        merger->pending_capacity = capacity;
    }
    merger->pending[merger->pending_count++] = component;
    return 0;
}

static struct text next_component(struct text *path)
{
    while (path->length > 0 && *path->start == '/') {
        path->start++;
        path->length--;
    }
    const char *slash = memchr(path->start, '/', path->length);
    struct text component = { path->start, slash ? (size_t)(slash - path->start) : path->length };
    path->start += component.length;
    path->length -= component.length;
    return component;
}

static bool text_is(struct text text, const char *what)
{
    return text.length == strlen(what) && memcmp(text.start, what, text.length) == 0;
}

static void step_up(struct merger *merger, uint32_t *at)
{
    if (merger->pending_count > 0)
        merger->pending_count--;
    else if (*at != TREE_ROOT)
        *at = merger->tree->names[*at].parent;
}

/* One component down from `*at`; a symbolic link is put on `todo`. */
static int step_down(struct merger *merger, struct text component, uint32_t *at, size_t *depth,
                     struct error **error)
{
    if (merger->pending_count > 0) return push_pending(merger, component, error);
    uint32_t child = file_tree_find(merger->tree, *at, component.start, component.length);
    if (child == TREE_NONE) return push_pending(merger, component, error);
    const struct tree_inode *inode = tree_inode_of(merger->tree, child);
    if (tree_inode_is_directory(inode)) {
        *at = child;
        return 0;
    }
    if (inode->entry->type != ENTRY_SYMLINK) {
        merger->obstructed = true;
        return error_set(error, ERROR_INVALID, "its parent \"%.*s\" is not a directory",
                         (int)component.length, component.start);
    }
    if (++merger->links > SYMLINKS_MAX)
        return error_set(error, ERROR_INVALID, "too many symbolic links in its path");
    const char *target = inode->entry->target;
    /* pending_count is 0 here: nothing is below a name that does not exist. */
    if (*target == '/') *at = TREE_ROOT;
    merger->todo[++*depth] = (struct text){ target, strlen(target) };
    return 0;
}

/*
 * Goes down `path` from `start`, following symbolic links inside the root as
 * containerd does: names that do not exist are taken as they stand, and left in
 * `pending`.
 */
static int walk_path(struct merger *merger, uint32_t start, struct text path, uint32_t *ret,
                     struct error **error)
{
    size_t depth = 0;
    uint32_t at = start;
    merger->pending_count = 0;
    merger->todo[0] = path;
    for (;;) {
        struct text component = next_component(&merger->todo[depth]);
        if (++merger->steps > STEPS_MAX)
            return error_set(error, ERROR_UNSUPPORTED, "the paths take too long to follow");
        if (component.length == 0) {
            if (depth == 0) break;
            depth--;
        } else if (text_is(component, "..")) {
            step_up(merger, &at);
        } else if (!text_is(component, ".")) {
            if (step_down(merger, component, &at, &depth, error) < 0) return -1;
        }
    }
    *ret = at;
    return 0;
}

static int make_pending(struct merger *merger, uint32_t *at, struct error **error)
{
    for (size_t i = 0; i < merger->pending_count; i++) {
        struct text name = merger->pending[i];
        if (name.length > 255)
            return error_set(error, ERROR_INVALID,
                             "a symbolic link leads to a name over 255 bytes");
        if (file_tree_add(merger->tree, *at, name.start, name.length, NULL, merger->layer, at,
                          error) < 0)
            return -1;
    }
    return 0;
}

/* How many steps of the trail lead towards `directory`. */
static size_t trail_match(struct merger *merger, struct text directory)
{
    struct trail *trail = &merger->trail;
    if (trail->removed != merger->tree->removed) trail->count = 0;
    trail->removed = merger->tree->removed;
    size_t known = trail->count ? trail->steps[trail->count - 1].length : 0;
    size_t limit = known < directory.length ? known : directory.length, same = 0;
    while (same < limit && trail->path[same] == directory.start[same])
        same++;
    size_t steps = trail->count;
    while (steps > 0) {
        size_t length = trail->steps[steps - 1].length;
        if (length <= same && (length == directory.length || directory.start[length] == '/')) break;
        steps--;
    }
    return steps;
}

/* The directory that holds an entry; made when missing. */
static int reach_directory(struct merger *merger, struct text directory, uint32_t *ret,
                           struct error **error)
{
    struct trail *trail = &merger->trail;
    trail->count = trail_match(merger, directory);
    merger->links = 0;
    uint32_t at = TREE_ROOT;
    size_t done = 0;
    if (trail->count) {
        at = trail->steps[trail->count - 1].directory;
        done = trail->steps[trail->count - 1].length;
    }
    memcpy(trail->path + done, directory.start + done, directory.length - done);
    /* One component at a time, to note where each one leads. */
    while (done < directory.length) {
        struct text rest = { directory.start + done, directory.length - done };
        struct text component = next_component(&rest);
        if (walk_path(merger, at, component, &at, error) < 0) return -1;
        if (make_pending(merger, &at, error) < 0) return -1;
        done = directory.length - rest.length;
        trail->steps[trail->count].length = done;
        trail->steps[trail->count++].directory = at;
    }
    *ret = at;
    return 0;
}

static int apply_directory(struct merger *merger, const struct entry *entry, uint32_t parent,
                           uint32_t existing, struct text base, struct error **error)
{
    uint32_t name;
    if (existing != TREE_NONE) {
        struct tree_inode *inode = tree_inode_of(merger->tree, existing);
        if (tree_inode_is_directory(inode)) {
            inode->entry = entry;
            inode->layer = merger->layer;
            merger->tree->names[existing].layer = merger->layer;
            return 0;
        }
        file_tree_remove(merger->tree, existing);
    }
    return file_tree_add(merger->tree, parent, base.start, base.length, entry, merger->layer, &name,
                         error);
}

static int apply_file(struct merger *merger, const struct entry *entry, uint32_t parent,
                      uint32_t existing, struct text base, struct error **error)
{
    uint32_t name;
    if (existing != TREE_NONE) file_tree_remove(merger->tree, existing);
    return file_tree_add(merger->tree, parent, base.start, base.length, entry, merger->layer, &name,
                         error);
}

static int find_link_target(struct merger *merger, const char *target, uint32_t *ret,
                            struct error **error)
{
    uint32_t directory = TREE_ROOT;
    struct text base = base_part(target);
    merger->links = 0;
    if (walk_path(merger, TREE_ROOT, directory_part(target), &directory, error) < 0)
        return error_prefix(error, "the target \"%.300s\" of the hard link", target);
    *ret = TREE_NONE;
    if (merger->pending_count == 0)
        *ret = file_tree_find(merger->tree, directory, base.start, base.length);
    if (*ret == TREE_NONE)
        return error_set(error, ERROR_INVALID, "the target \"%.300s\" of the hard link is missing",
                         target);
    if (tree_inode_is_directory(tree_inode_of(merger->tree, *ret)))
        return error_set(error, ERROR_INVALID,
                         "the target \"%.300s\" of the hard link is a directory", target);
    return 0;
}

static int apply_hardlink(struct merger *merger, const struct entry *entry, uint32_t parent,
                          uint32_t existing, struct text base, struct error **error)
{
    uint32_t target = TREE_NONE, name;
    if (find_link_target(merger, entry->target, &target, error) < 0) return -1;
    uint32_t inode = merger->tree->names[target].inode;
    if (existing != TREE_NONE) {
        if (merger->tree->names[existing].inode == inode) {
            merger->tree->names[existing].layer = merger->layer;
            return 0;
        }
        /* An unpacker removes first, and then misses a target that was below. */
        file_tree_remove(merger->tree, existing);
        if (merger->tree->names[target].inode != inode)
            return error_set(error, ERROR_INVALID,
                             "the target \"%.300s\" of the hard link is missing", entry->target);
    }
    return file_tree_link(merger->tree, parent, base.start, base.length, inode, merger->layer,
                          &name, error);
}

/* What an unpacker makes of an entry of the root's own. */
static void apply_to_root(struct merger *merger, const struct entry *entry)
{
    if (entry->type == ENTRY_DIRECTORY)
        tree_inode_of(merger->tree, TREE_ROOT)->entry = entry;
    else
        file_tree_purge(merger->tree, TREE_ROOT, merger->layer);
}

/* A whiteout below a file has nothing to hide: what the file replaced is gone. */
static int apply_marker(struct merger *merger, const struct entry *entry, struct error **error)
{
    struct text path = { entry->path, strlen(entry->path) };
    struct text directory_path = entry->type == ENTRY_OPAQUE ? path : directory_part(entry->path);
    uint32_t directory = TREE_ROOT;
    struct error *reason = NULL;
    merger->obstructed = false;
    if (reach_directory(merger, directory_path, &directory, &reason) < 0) {
        if (!merger->obstructed) return error_move(error, reason);
        error_free(reason);
        return 0;
    }
    if (entry->type == ENTRY_OPAQUE) {
        file_tree_purge(merger->tree, directory, merger->layer);
        return 0;
    }
    struct text base = base_part(entry->path);
    uint32_t existing = file_tree_find(merger->tree, directory, base.start, base.length);
    if (existing != TREE_NONE) file_tree_hide(merger->tree, existing, merger->layer);
    return 0;
}

static int check_data(const struct entry *entry, const struct merge_layer *layer,
                      struct error **error)
{
    uint64_t length = entry_data_length(entry);
    if (length == 0) return 0;
    if (entry->data_offset > layer->stream_length ||
        length > layer->stream_length - entry->data_offset)
        return error_set(error, ERROR_INVALID, "its data lies behind the end of the layer");
    return 0;
}

static int apply_entry(struct merger *merger, const struct merge_layer *layer,
                       const struct entry *entry, struct error **error)
{
    uint32_t parent = TREE_ROOT;
    if (!*entry->path) {
        apply_to_root(merger, entry);
        return 0;
    }
    if (entry->type == ENTRY_OPAQUE || entry->type == ENTRY_WHITEOUT)
        return apply_marker(merger, entry, error);
    if (check_data(entry, layer, error) < 0) return -1;
    struct text base = base_part(entry->path);
    if (reach_directory(merger, directory_part(entry->path), &parent, error) < 0) return -1;
    uint32_t existing = file_tree_find(merger->tree, parent, base.start, base.length);
    switch (entry->type) {
    case ENTRY_DIRECTORY:
        return apply_directory(merger, entry, parent, existing, base, error);
    case ENTRY_HARDLINK:
        return apply_hardlink(merger, entry, parent, existing, base, error);
    default:
        return apply_file(merger, entry, parent, existing, base, error);
    }
}

static int apply_layer(struct merger *merger, const struct merge_layer *layer, struct error **error)
{
    size_t count = entry_table_count(layer->entries);
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = entry_table_get(layer->entries, i);
        if (apply_entry(merger, layer, entry, error) < 0)
            return error_prefix(error, "layer %u: entry \"%.300s\"", merger->layer + 1,
                                entry->path);
    }
    return 0;
}

int merge_onto(struct file_tree *tree, const struct merge_layer *layers, size_t first, size_t count,
               struct error **error)
{
    struct merger *merger = calloc(1, sizeof *merger);
    if (!merger) return error_set_memory(error);
    merger->tree = tree;
    int status = 0;
    for (size_t i = first; i < count && status == 0; i++) {
        merger->layer = (uint32_t)i;
        status = apply_layer(merger, &layers[i], error);
    }
    free(merger->pending);
    free(merger);
    return status;
}

int merge_tree_init(struct file_tree *tree, const struct merge_layer *layers, size_t count,
                    struct error **error)
{
    size_t expected = 1;
    if (count > EROFS_DEVICES_MAX) {
        error_set(error, ERROR_UNSUPPORTED, "the image has %zu layers, more than %d", count,
                  EROFS_DEVICES_MAX);
        return -1;
    }
    for (size_t i = 0; i < count; i++)
        expected += entry_table_count(layers[i].entries);
    return file_tree_init(tree, expected, error);
}

int merge_layers(const struct merge_layer *layers, size_t count, struct buffer *ret_erofs,
                 struct error **error)
{
    struct file_tree tree = { 0 };
    int status = merge_tree_init(&tree, layers, count, error);
    if (status == 0) status = merge_onto(&tree, layers, 0, count, error);
    if (status == 0) status = erofs_write(&tree, layers, count, ret_erofs, error);
    file_tree_free(&tree);
    return status;
}
