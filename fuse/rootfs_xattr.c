#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuse/rootfs-internal.h"

/* An entry takes this much of the image, and its name besides. */
#define DIRECTORY_ENTRY_BYTES 12u

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

static bool has_acl(const struct erofs_image *image, const struct erofs_inode *inode)
{
    const void *value;
    return erofs_image_getxattr(image, inode, "system.posix_acl_access", &value) >= 0 ||
           erofs_image_getxattr(image, inode, "system.posix_acl_default", &value) >= 0;
}

static void note_inode(struct rootfs *rootfs, const struct erofs_inode *inode)
{
    if (inode->xattr_size == 0) return;
    rootfs->has_xattrs = true;
    if (!rootfs->has_acls) rootfs->has_acls = has_acl(rootfs->image, inode);
}

/* Looks at one directory's entries, remembering the directories among them. `budget` bounds the
 * walk should the image change under us into a ring. */
static int search_directory(struct rootfs *rootfs, uint64_t nid, struct pending *pending,
                            uint64_t *budget)
{
    struct erofs_inode directory;
    struct erofs_dirent dirent;
    uint64_t cookie = 0;
    int result = erofs_image_inode(rootfs->image, nid, &directory);
    if (result < 0) return result;
    note_inode(rootfs, &directory);
    while ((result = erofs_image_readdir(rootfs->image, &directory, cookie, &dirent)) > 0) {
        cookie = dirent.next_cookie;
        if (dirent.name_length <= 2 && memcmp(dirent.name, "..", dirent.name_length) == 0) continue;
        if ((*budget)-- == 0) return -EIO;
        struct erofs_inode inode;
        result = erofs_image_inode(rootfs->image, dirent.nid, &inode);
        if (!result && S_ISDIR(inode.mode)) result = push(pending, dirent.nid);
        if (result < 0) return result;
        note_inode(rootfs, &inode);
    }
    return result;
}

/*
 * Each exec asks for security.capability, and overlayfs asks about every
 * directory; the kernel remembers no answer but one: ENOSYS, no attributes at
 * all. Most images have none, and to know it costs 2 ms for 56,000 inodes. For
 * ACLs the kernel must be told at the start that it is to obey them.
 */
int rootfs_find_xattrs(struct rootfs *rootfs, struct error **error)
{
    struct pending pending = { 0 };
    /* There is no telling entries by inodes, which may have any number of names. */
    uint64_t budget = rootfs->image->size / DIRECTORY_ENTRY_BYTES;
    int result = push(&pending, rootfs->image->root_nid);
    while (!result && pending.count > 0)
        result = search_directory(rootfs, pending.nids[--pending.count], &pending, &budget);
    free(pending.nids);
    if (result < 0) return error_set_errno(error, -result, "metadata: look for attributes");
    return 0;
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
    if (!rootfs->has_xattrs) {
        fuse_reply_err(request, ENOSYS);
        return;
    }
    struct erofs_inode inode;
    const void *value = NULL;
    ssize_t length = rootfs_inode(rootfs, node, &inode);
    if (!length) length = erofs_image_getxattr(rootfs->image, &inode, name, &value);
    /* What goes into a system call must be a copy: see base/mapping.h. */
    cleanup_free void *copy = NULL;
    if (value && length > 0 && size > 0) {
        copy = malloc((size_t)length);
        if (copy)
            memcpy(copy, value, (size_t)length);
        else
            length = -ENOMEM;
    }
    reply_sized(request, copy, rootfs_checked(rootfs, length), size);
}

void rootfs_listxattr(fuse_req_t request, fuse_ino_t node, size_t size)
{
    struct rootfs *rootfs = fuse_req_userdata(request);
    if (!rootfs->has_xattrs) {
        fuse_reply_err(request, ENOSYS);
        return;
    }
    size_t capacity = size < XATTR_LIST_MAX ? size : XATTR_LIST_MAX;
    cleanup_free char *names = malloc(capacity ? capacity : 1);
    struct erofs_inode inode;
    ssize_t length = names ? rootfs_inode(rootfs, node, &inode) : -ENOMEM;
    if (!length) length = erofs_image_listxattr(rootfs->image, &inode, names, capacity);
    reply_sized(request, names, rootfs_checked(rootfs, length), capacity);
}
