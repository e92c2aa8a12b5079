#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuse/rootfs-internal.h"

/* Directories still to be looked into. */
struct pending {
    uint64_t *nids;
    size_t count, capacity;
};

static int push(struct pending *pending, uint64_t nid)
{
    if (pending->count == pending->capacity) {
        size_t capacity = pending->capacity ? 2 * pending->capacity : 256;
        uint64_t *grown = reallocarray(pending->nids, capacity, sizeof *grown);
        if (!grown) return -ENOMEM;
        pending->nids = grown;
        pending->capacity = capacity;
    }
    pending->nids[pending->count++] = nid;
    return 0;
}

/* Looks at one directory's entries, remembering the directories among them. 1: an attribute was
 * found. `budget` bounds the walk should the image have changed under us into a ring. */
static int search_directory(const struct erofs_image *image, const struct erofs_inode *directory,
                            struct pending *pending, uint64_t *budget)
{
    struct erofs_dirent dirent;
    uint64_t cookie = 0;
    int result;
    while ((result = erofs_image_readdir(image, directory, cookie, &dirent)) > 0) {
        cookie = dirent.next_cookie;
        if (dirent.name_length <= 2 && memcmp(dirent.name, "..", dirent.name_length) == 0) continue;
        if ((*budget)-- == 0) return -EIO;
        struct erofs_inode inode;
        result = erofs_image_inode(image, dirent.nid, &inode);
        if (result < 0) return result;
        if (inode.xattr_size > 0) return 1;
        if (S_ISDIR(inode.mode) && (result = push(pending, dirent.nid)) < 0) return result;
    }
    return result;
}

/* Whether any inode has an extended attribute: 1, 0, or a negative errno. */
static int search_image(const struct erofs_image *image)
{
    struct pending pending = { 0 };
    /* Hard links are met more than once. */
    uint64_t budget = image->inode_count < UINT64_MAX / 16 ? 16 * image->inode_count : UINT64_MAX;
    struct erofs_inode inode;
    int result = erofs_image_inode(image, image->root_nid, &inode);
    if (!result && inode.xattr_size > 0) result = 1;
    if (!result) result = push(&pending, image->root_nid);
    while (!result && pending.count > 0) {
        result = erofs_image_inode(image, pending.nids[--pending.count], &inode);
        if (!result) result = search_directory(image, &inode, &pending, &budget);
    }
    free(pending.nids);
    return result;
}

/*
 * Each exec asks for security.capability, and overlayfs asks about every
 * directory; the kernel remembers no answer but one: ENOSYS, no attributes at
 * all. Most images have none, so it is worth finding out, when first asked.
 * Two threads may do it at once, with the same result.
 */
static bool image_has_xattrs(struct rootfs *rootfs)
{
    int presence = atomic_load(&rootfs->xattrs);
    if (presence == XATTRS_UNKNOWN) {
        presence = search_image(rootfs->image) == 0 ? XATTRS_NONE : XATTRS_SOME;
        atomic_store(&rootfs->xattrs, presence);
    }
    return presence == XATTRS_SOME;
}

/* getxattr(2), listxattr(2): size 0 asks for the length. */
static void reply_sized(fuse_req_t request, const void *data, ssize_t length, size_t size)
{
    if (length < 0)
        fuse_reply_err(request, (int)-length);
    else if (size == 0)
        fuse_reply_xattr(request, (size_t)length);
    else if ((size_t)length > size)
        fuse_reply_err(request, ERANGE);
    else
        fuse_reply_buf(request, data, (size_t)length);
}

void rootfs_getxattr(fuse_req_t request, fuse_ino_t node, const char *name, size_t size)
{
    struct rootfs *rootfs = fuse_req_userdata(request);
    if (!image_has_xattrs(rootfs)) {
        fuse_reply_err(request, ENOSYS);
        return;
    }
    struct erofs_inode inode;
    const void *value = NULL;
    ssize_t length = rootfs_inode(rootfs, node, &inode);
    if (!length) length = erofs_image_getxattr(rootfs->image, &inode, name, &value);
    reply_sized(request, value, length, size);
}

void rootfs_listxattr(fuse_req_t request, fuse_ino_t node, size_t size)
{
    struct rootfs *rootfs = fuse_req_userdata(request);
    if (!image_has_xattrs(rootfs)) {
        fuse_reply_err(request, ENOSYS);
        return;
    }
    size_t capacity = size < XATTR_LIST_MAX ? size : XATTR_LIST_MAX;
    cleanup_free char *names = malloc(capacity ? capacity : 1);
    struct erofs_inode inode;
    ssize_t length = names ? rootfs_inode(rootfs, node, &inode) : -ENOMEM;
    if (!length) length = erofs_image_listxattr(rootfs->image, &inode, names, capacity);
    reply_sized(request, names, length, capacity);
}
