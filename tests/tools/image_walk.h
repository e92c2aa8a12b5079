/* The tree of a metadata image that was accepted: no call may fail, and answers agree. */
#ifndef SLUICE_TESTS_TOOLS_IMAGE_WALK_H
#define SLUICE_TESTS_TOOLS_IMAGE_WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "index/erofs_image.h"
#include "tests/tools/expect.h"

/* The longest that an entry table has room for. */
#define WALK_PATH_MAX 4095

/* Both are the call's own; the root's path is "". */
typedef void walk_name(void *context, const char *path, const struct erofs_inode *inode);

struct image_walk {
    const struct erofs_image *image;
    walk_name *name;
    void *context;
    bool complete;
};

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
    if (length > WALK_PATH_MAX)
        walk->complete = false;
    else
        walk_tree(walk, text, dirent->nid);
    free(text);
}

static inline void walk_tree(struct image_walk *walk, const char *path, uint64_t nid)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    EXPECT(erofs_image_inode(walk->image, nid, &inode) == 0);
    walk->name(walk->context, path, &inode);
    for (uint64_t cookie = 0; S_ISDIR(inode.mode); cookie = dirent.next_cookie) {
        int status = erofs_image_readdir(walk->image, &inode, cookie, &dirent);
        EXPECT(status >= 0);
        if (status == 0) break;
        EXPECT(dirent.next_cookie > cookie);
        walk_child(walk, &inode, path, &dirent);
    }
}

/* Calls `name` for each name of the tree in the order of its directories, a directory before what
 * is in it. False where paths longer than WALK_PATH_MAX were left out, with all below them. */
static inline bool walk_image(const struct erofs_image *image, walk_name *name, void *context)
{
    struct image_walk walk = { image, name, context, true };
    walk_tree(&walk, "", image->root_nid);
    return walk.complete;
}

#endif
