/*
 * A metadata image that was accepted, walked whole: no call may fail, answers
 * agree with each other, and the tree makes the same image again when it is
 * merged anew.
 */
#ifndef SLUICE_TESTS_FUZZ_IMAGE_WALK_H
#define SLUICE_TESTS_FUZZ_IMAGE_WALK_H

#include <errno.h>
#include <sys/stat.h>

#include "index/entry_table.h"
#include "index/erofs_image.h"
#include "index/merge.h"
#include "tests/fuzz/fuzz.h"

struct image_walk {
    const struct erofs_image *image;
    struct entry_table **tables; /* one a device; the last takes what has no data */
    char **first_names;          /* by inode number of EROFS */
    uint64_t inodes;
    bool too_long; /* a path that an entry table has no room for */
};

static inline void walk_xattrs(const struct image_walk *walk, const struct erofs_inode *inode,
                               struct entry *entry, char **ret_names)
{
    ssize_t length = erofs_image_listxattr(walk->image, inode, NULL, 0);
    EXPECT(length >= 0);
    char *names = malloc((size_t)length + 1);
    struct entry_xattr *xattrs = calloc((size_t)length + 1, sizeof *xattrs);
    EXPECT(names && xattrs);
    if (length)
        EXPECT(erofs_image_listxattr(walk->image, inode, names, (size_t)length - 1) == -ERANGE);
    EXPECT(erofs_image_listxattr(walk->image, inode, names, (size_t)length) == length);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        struct entry_xattr *xattr = &xattrs[entry->xattr_count++];
        xattr->name = names + at;
        ssize_t got = erofs_image_getxattr(walk->image, inode, names + at, &xattr->value);
        EXPECT(got >= 0);
        xattr->value_length = (uint32_t)got;
    }
    entry->xattrs = xattrs;
    *ret_names = names;
}

static inline void walk_segment(struct entry *entry, struct entry_segment **segments,
                                uint64_t offset, uint64_t length)
{
    struct entry_segment *last = entry->segment_count ? *segments + entry->segment_count - 1 : NULL;
    if (last && last->offset + last->length == offset) {
        last->length += length;
        return;
    }
    EXPECT(*segments = reallocarray(*segments, entry->segment_count + 1, sizeof **segments));
    (*segments)[entry->segment_count++] = (struct entry_segment){ offset, length };
}

/* Every extent of a file lies in its device; together they are the file, and its data is in one
 * piece. Gives the first that has data, and what is no hole as segments, to be freed. */
static inline void walk_extents(const struct image_walk *walk, const struct erofs_inode *inode,
                                struct erofs_extent *ret, struct entry *entry,
                                struct entry_segment **ret_segments)
{
    uint64_t stored = 0;
    for (uint64_t offset = 0; offset < inode->size;) {
        struct erofs_extent extent;
        EXPECT(erofs_image_map(walk->image, inode, offset, &extent) == 0);
        EXPECT(extent.length > 0 && extent.length <= inode->size - offset);
        EXPECT(extent.device <= walk->image->device_count);
        if (extent.device == 0) {
            entry->sparse = true;
        } else {
            if (stored == 0) *ret = extent;
            EXPECT(extent.device == ret->device);
            EXPECT(extent.device_offset == ret->device_offset + stored);
            walk_segment(entry, ret_segments, offset, extent.length);
            stored += extent.length;
        }
        offset += extent.length;
    }
    EXPECT(stored == erofs_image_stored_bytes(walk->image, inode));
    entry->segments = *ret_segments;
}

static inline void walk_inode(struct image_walk *walk, const char *path,
                              const struct erofs_inode *inode)
{
    static const enum entry_type types[16] = {
        [1] = ENTRY_FIFO,         [2] = ENTRY_CHARACTER_DEVICE, [4] = ENTRY_DIRECTORY,
        [6] = ENTRY_BLOCK_DEVICE, [8] = ENTRY_REGULAR,          [10] = ENTRY_SYMLINK,
    };
    char *names, target[4096] = { 0 };
    struct erofs_extent extent = { .device = walk->image->device_count };
    struct error *error = NULL;
    struct entry entry = {
        .type = types[inode->mode >> 12],
        .path = path,
        .mode = inode->mode & 07777,
        .uid = inode->uid,
        .gid = inode->gid,
        .mtime = inode->mtime,
        .mtime_nsec = inode->mtime_nsec,
        .size = inode->size,
        .device_major = inode->rdev >> 8 & 0xfff,
        .device_minor = (inode->rdev & 0xff) | (inode->rdev >> 12 & 0xfff00),
    };
    walk_xattrs(walk, inode, &entry, &names);
    if (S_ISLNK(inode->mode)) {
        const char *text;
        size_t length;
        EXPECT(erofs_image_symlink(walk->image, inode, &text, &length) == 0);
        EXPECT(length > 0 && length < sizeof target && length == inode->size);
        memcpy(target, text, length);
        entry.target = target;
    }
    struct entry_segment *segments = NULL;
    if (S_ISREG(inode->mode)) walk_extents(walk, inode, &extent, &entry, &segments);
    entry.data_offset = extent.device_offset;
    char *first = walk->first_names[inode->nid];
    struct entry link = { .type = ENTRY_HARDLINK, .path = path, .target = first };
    if (extent.device > 0)
        EXPECT_SUCCESS(entry_table_append(
            walk->tables[first ? walk->image->device_count - 1 : extent.device - 1],
            first ? &link : &entry, &error));
    free(segments);
    free((void *)entry.xattrs);
    free(names);
}

static inline void walk_tree(struct image_walk *walk, const char *path, uint64_t nid);

static inline void walk_child(struct image_walk *walk, const struct erofs_inode *directory,
                              const char *path, const struct erofs_dirent *dirent)
{
    uint64_t found = 0;
    struct erofs_inode child;
    EXPECT(erofs_image_lookup(walk->image, directory, dirent->name, dirent->name_length, &found) ==
           0);
    EXPECT(found == dirent->nid);
    if (dirent->name_length <= 2 && memcmp(dirent->name, "..", dirent->name_length) == 0) return;
    EXPECT(erofs_image_inode(walk->image, dirent->nid, &child) == 0);
    EXPECT(dirent->type == child.mode >> 12);
    char *text = NULL;
    int length =
        asprintf(&text, "%s%s%.*s", path, *path ? "/" : "", (int)dirent->name_length, dirent->name);
    EXPECT(length >= 0);
    if (length > 4095)
        walk->too_long = true;
    else
        walk_tree(walk, text, dirent->nid);
    free(text);
}

static inline void walk_tree(struct image_walk *walk, const char *path, uint64_t nid)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    EXPECT(erofs_image_inode(walk->image, nid, &inode) == 0);
    walk_inode(walk, path, &inode);
    if (!walk->first_names[nid]) {
        walk->first_names[nid] = strdup(path);
        walk->inodes++;
    }
    for (uint64_t cookie = 0; S_ISDIR(inode.mode); cookie = dirent.next_cookie) {
        int status = erofs_image_readdir(walk->image, &inode, cookie, &dirent);
        EXPECT(status >= 0);
        if (status == 0) break;
        EXPECT(dirent.next_cookie > cookie);
        walk_child(walk, &inode, path, &dirent);
    }
}

/* `lengths` are those of the devices' streams. */
static inline void walk_image(const struct erofs_image *image, const uint64_t *lengths)
{
    uint32_t count = image->device_count;
    struct image_walk walk = { .image = image };
    struct merge_layer *layers = calloc(count + 1, sizeof *layers);
    struct error *error = NULL;
    struct buffer bytes = { 0 };
    walk.tables = calloc(count + 1, sizeof *walk.tables);
    walk.first_names = calloc(image->size / 32 + 1, sizeof *walk.first_names);
    EXPECT(layers && walk.tables && walk.first_names);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t rounded;
        EXPECT(walk.tables[i] = entry_table_new());
        layers[i] = (struct merge_layer){ .entries = walk.tables[i], .stream_length = lengths[i] };
        EXPECT_SUCCESS(
            erofs_image_device(image, i + 1, &rounded, &layers[i].stream_digest, &error));
    }
    if (count > 0) walk_tree(&walk, "", image->root_nid);
    EXPECT(count == 0 || walk.too_long || walk.inodes == image->inode_count);
    if (count > 0 && !walk.too_long) {
        EXPECT_SUCCESS(merge_layers(layers, count, &bytes, &error));
        uint64_t length = image->size + image->sparse_map.count * SPARSE_MAP_RECORD_BYTES;
        EXPECT(bytes.length == length && memcmp(bytes.data, image->data, length) == 0);
    }
    buffer_free(&bytes);
    for (uint32_t i = 0; i < count; i++)
        entry_table_free(walk.tables[i]);
    for (uint64_t i = 0; i <= image->size / 32; i++)
        free(walk.first_names[i]);
    free(walk.first_names);
    free(walk.tables);
    free(layers);
}

/* What the merge makes must be accepted, walkable, and the same each time. False: it is an error
 * to merge these layers. */
static inline bool merge_and_walk(const struct merge_layer *layers, size_t count)
{
    struct error *error = NULL;
    struct buffer bytes = { 0 }, again = { 0 };
    struct erofs_image image;
    uint64_t *lengths = calloc(count + 1, sizeof *lengths);
    EXPECT(lengths);
    for (size_t i = 0; i < count; i++)
        lengths[i] = layers[i].stream_length;
    bool merged = merge_layers(layers, count, &bytes, &error) == 0;
    if (merged) {
        EXPECT_SUCCESS(merge_layers(layers, count, &again, &error));
        EXPECT(equal_buffers(&bytes, &again));
        EXPECT_SUCCESS(erofs_image_open(&image, bytes.data, bytes.length, &error));
        EXPECT_SUCCESS(erofs_image_validate(&image, lengths, (uint32_t)count, &error));
        walk_image(&image, lengths);
    } else {
        expect_error(error);
    }
    error_free(error);
    buffer_free(&bytes);
    buffer_free(&again);
    free(lengths);
    return merged;
}

#endif
