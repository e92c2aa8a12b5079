#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuse/rootfs-internal.h"

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
    struct rootfs *rootfs = fuse_server_context(request);
    /* Each exec asks for security.capability, and overlayfs asks about every directory; the kernel
     * remembers no answer but this one: no attributes at all. Most images have none. */
    if (!rootfs->image->has_xattrs) {
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
    struct rootfs *rootfs = fuse_server_context(request);
    if (!rootfs->image->has_xattrs) {
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
