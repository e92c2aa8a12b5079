/*
 * A metadata image that was accepted is what the writer writes, to the byte:
 * taken apart into layers' entries, its tree makes the same image again when
 * it is merged anew.
 */
#ifndef SLUICE_TESTS_TOOLS_IMAGE_REBUILD_H
#define SLUICE_TESTS_TOOLS_IMAGE_REBUILD_H

#include <errno.h>
#include <sys/stat.h>

#include "index/entry_table.h"
#include "index/erofs_image.h"
#include "index/merge.h"
#include "tests/tools/image_walk.h"

struct image_rebuild {
    const struct erofs_image *image;
    struct entry_table **tables; /* one a device; the last takes what has no data */
    char **first_names;          /* by inode number of EROFS */
    uint64_t inodes;
};

static inline void rebuild_xattrs(const struct image_rebuild *rebuild,
                                  const struct erofs_inode *inode, struct entry *entry,
                                  char **ret_names)
{
    ssize_t length = erofs_image_listxattr(rebuild->image, inode, NULL, 0);
    EXPECT(length >= 0);
    char *names = malloc((size_t)length + 1);
    struct entry_xattr *xattrs = calloc((size_t)length + 1, sizeof *xattrs);
    EXPECT(names && xattrs);
    if (length)
        EXPECT(erofs_image_listxattr(rebuild->image, inode, names, (size_t)length - 1) == -ERANGE);
    EXPECT(erofs_image_listxattr(rebuild->image, inode, names, (size_t)length) == length);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        struct entry_xattr *xattr = &xattrs[entry->xattr_count++];
        xattr->name = names + at;
        ssize_t got = erofs_image_getxattr(rebuild->image, inode, names + at, &xattr->value);
        EXPECT(got >= 0);
        xattr->value_length = (uint32_t)got;
    }
    entry->xattrs = xattrs;
    *ret_names = names;
}

static inline void rebuild_segment(struct entry *entry, struct entry_segment **segments,
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
static inline void rebuild_extents(const struct image_rebuild *rebuild,
                                   const struct erofs_inode *inode, struct erofs_extent *ret,
                                   struct entry *entry, struct entry_segment **ret_segments)
{
    uint64_t stored = 0;
    for (uint64_t offset = 0; offset < inode->size;) {
        struct erofs_extent extent;
        EXPECT(erofs_image_map(rebuild->image, inode, offset, &extent) == 0);
        EXPECT(extent.length > 0 && extent.length <= inode->size - offset);
        EXPECT(extent.device <= rebuild->image->device_count);
        if (extent.device == 0) {
            entry->sparse = true;
        } else {
            if (stored == 0) *ret = extent;
            EXPECT(extent.device == ret->device);
            EXPECT(extent.device_offset == ret->device_offset + stored);
            rebuild_segment(entry, ret_segments, offset, extent.length);
            stored += extent.length;
        }
        offset += extent.length;
    }
    EXPECT(stored == erofs_image_stored_bytes(rebuild->image, inode));
    entry->segments = *ret_segments;
}

static inline void rebuild_name(void *context, const char *path, const struct erofs_inode *inode)
{
    struct image_rebuild *rebuild = context;
    static const enum entry_type types[16] = {
        [1] = ENTRY_FIFO,         [2] = ENTRY_CHARACTER_DEVICE, [4] = ENTRY_DIRECTORY,
        [6] = ENTRY_BLOCK_DEVICE, [8] = ENTRY_REGULAR,          [10] = ENTRY_SYMLINK,
    };
    char *names, target[4096] = { 0 };
    struct erofs_extent extent = { .device = rebuild->image->device_count };
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
    rebuild_xattrs(rebuild, inode, &entry, &names);
    if (S_ISLNK(inode->mode)) {
        const char *text;
        size_t length;
        EXPECT(erofs_image_symlink(rebuild->image, inode, &text, &length) == 0);
        EXPECT(length > 0 && length < sizeof target && length == inode->size);
        memcpy(target, text, length);
        entry.target = target;
    }
    struct entry_segment *segments = NULL;
    if (S_ISREG(inode->mode)) rebuild_extents(rebuild, inode, &extent, &entry, &segments);
    entry.data_offset = extent.device_offset;
    char *first = rebuild->first_names[inode->nid];
    struct entry link = { .type = ENTRY_HARDLINK, .path = path, .target = first };
    if (extent.device > 0)
        EXPECT_SUCCESS(entry_table_append(
            rebuild->tables[first ? rebuild->image->device_count - 1 : extent.device - 1],
            first ? &link : &entry, &error));
    if (!first) {
        EXPECT(rebuild->first_names[inode->nid] = strdup(path));
        rebuild->inodes++;
    }
    free(segments);
    free((void *)entry.xattrs);
    free(names);
}

/* Holds an accepted image to that; `lengths` are those of the layers' streams. */
static inline void expect_rebuilt(const struct erofs_image *image, const uint64_t *lengths)
{
    uint32_t count = image->device_count;
    struct image_rebuild rebuild = { .image = image };
    struct merge_layer *layers = calloc(count + 1, sizeof *layers);
    struct error *error = NULL;
    struct buffer bytes = { 0 };
    rebuild.tables = calloc(count + 1, sizeof *rebuild.tables);
    rebuild.first_names = calloc(image->size / 32 + 1, sizeof *rebuild.first_names);
    EXPECT(layers && rebuild.tables && rebuild.first_names);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t rounded;
        EXPECT(rebuild.tables[i] = entry_table_new());
        layers[i] =
            (struct merge_layer){ .entries = rebuild.tables[i], .stream_length = lengths[i] };
        EXPECT_SUCCESS(
            erofs_image_device(image, i + 1, &rounded, &layers[i].stream_digest, &error));
    }
    if (count > 0 && walk_image(image, rebuild_name, &rebuild)) {
        EXPECT(rebuild.inodes == image->inode_count);
        EXPECT_SUCCESS(merge_layers(layers, count, &bytes, &error));
        uint64_t length = image->size + image->sparse_map.count * SPARSE_MAP_RECORD_BYTES;
        EXPECT(bytes.length == length && memcmp(bytes.data, image->data, length) == 0);
    }
    buffer_free(&bytes);
    for (uint32_t i = 0; i < count; i++)
        entry_table_free(rebuild.tables[i]);
    for (uint64_t i = 0; i <= image->size / 32; i++)
        free(rebuild.first_names[i]);
    free(rebuild.first_names);
    free(rebuild.tables);
    free(layers);
}

#endif
