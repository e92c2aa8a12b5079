/* A metadata image, accepted or not, asked all that can be asked: whatever the answers are, it must
 * end, and the reader stay inside the image's memory. */
#ifndef SLUICE_TESTS_TOOLS_IMAGE_READ_H
#define SLUICE_TESTS_TOOLS_IMAGE_READ_H

#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "index/erofs_image.h"
#include "tests/tools/expect.h"

/* So that reads are not left out by the compiler. */
static inline void read_bytes(const void *bytes, ssize_t length)
{
    static volatile uint8_t sink;
    for (ssize_t i = 0; i < length; i++)
        sink = ((const uint8_t *)bytes)[i];
    (void)sink;
}

static inline void read_attributes(const struct erofs_image *image, const struct erofs_inode *inode)
{
    char names[512];
    const void *value;
    ssize_t length = erofs_image_listxattr(image, inode, names, sizeof names);
    (void)erofs_image_listxattr(image, inode, NULL, 0);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t got = erofs_image_getxattr(image, inode, names + at, &value);
        read_bytes(value, got);
    }
    /* A list may break off before what can be found by its name. */
    ssize_t got = erofs_image_getxattr(image, inode, "user.name", &value);
    read_bytes(value, got);
}

static inline void read_inode(const struct erofs_image *image, const struct erofs_inode *inode)
{
    const char *target;
    size_t length;
    struct erofs_extent extent;
    read_attributes(image, inode);
    if (erofs_image_symlink(image, inode, &target, &length) == 0)
        read_bytes(target, (ssize_t)length);
    (void)erofs_image_map(image, inode, 0, &extent);
    (void)erofs_image_map(image, inode, inode->size / 2, &extent);
    (void)erofs_image_map(image, inode, inode->size - 1, &extent);
}

/* From inode `nid` down, so many levels deep; `budget` bounds the inodes and names in all. */
static inline void read_tree(const struct erofs_image *image, uint64_t nid, int depth, int *budget)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    if (depth == 0 || --*budget < 0 || erofs_image_inode(image, nid, &inode) < 0) return;
    read_inode(image, &inode);
    for (uint64_t cookie = 0; erofs_image_readdir(image, &inode, cookie, &dirent) == 1;
         cookie = dirent.next_cookie) {
        uint64_t found;
        EXPECT(dirent.next_cookie > cookie);
        if (--*budget < 0) return;
        (void)erofs_image_lookup(image, &inode, dirent.name, dirent.name_length, &found);
        if (dirent.name_length > 2 || dirent.name[0] != '.')
            read_tree(image, dirent.nid, depth - 1, budget);
    }
}

#endif
