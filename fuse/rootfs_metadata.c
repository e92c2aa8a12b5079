/*
 * Names, attributes, symbolic links.
 *
 * FUSE calls the root 1, everything else is called by its place in the image
 * (its nid). No nid is 1, because the superblock lies there.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "fuse/rootfs-internal.h"

static uint64_t nid_of_node(const struct rootfs *rootfs, fuse_ino_t node)
{
    return node == FUSE_ROOT_ID ? rootfs->image->root_nid : node;
}

static fuse_ino_t node_of_nid(const struct rootfs *rootfs, uint64_t nid)
{
    return nid == rootfs->image->root_nid ? FUSE_ROOT_ID : nid;
}

static bool is_damaged(const struct rootfs *rootfs)
{
    return rootfs->metadata && mapping_is_damaged(rootfs->metadata);
}

int rootfs_inode(const struct rootfs *rootfs, fuse_ino_t node, struct erofs_inode *ret)
{
    int result = erofs_image_inode(rootfs->image, nid_of_node(rootfs, node), ret);
    if (result < 0 && !is_damaged(rootfs))
        log_error("metadata: inode %llu: %s", (unsigned long long)node, strerror(-result));
    return result;
}

ssize_t rootfs_checked(struct rootfs *rootfs, ssize_t result)
{
    if (!is_damaged(rootfs)) return result;
    if (!atomic_exchange(&rootfs->damage_told, true))
        log_error("metadata: its file in the cache was cut off, or its disk cannot read it; "
                  "whatever is looked up from now on fails: mount '%s' again",
                  rootfs->mount.mountpoint);
    return -EIO;
}

static void fill_attributes(const struct rootfs *rootfs, const struct erofs_inode *inode,
                            struct stat *ret)
{
    uint64_t stored =
        S_ISREG(inode->mode) ? erofs_image_stored_bytes(rootfs->image, inode) : inode->size;
    *ret = (struct stat){
        .st_ino = inode->nid,
        .st_mode = inode->mode,
        .st_nlink = inode->link_count,
        .st_uid = inode->uid,
        .st_gid = inode->gid,
        /* FUSE carries the kernel's 32-bit encoding, which is the low half of glibc's. */
        .st_rdev = inode->rdev,
        .st_size = (off_t)inode->size,
        .st_blksize = 4096,
        .st_blocks = (blkcnt_t)((stored >> 9) + (stored % 512 != 0)),
        .st_atim = { .tv_sec = inode->mtime, .tv_nsec = inode->mtime_nsec },
        .st_mtim = { .tv_sec = inode->mtime, .tv_nsec = inode->mtime_nsec },
        .st_ctim = { .tv_sec = inode->mtime, .tv_nsec = inode->mtime_nsec },
    };
}

void rootfs_fill_entry(const struct rootfs *rootfs, const struct erofs_inode *inode,
                       struct fuse_entry_param *ret)
{
    *ret = (struct fuse_entry_param){ .ino = node_of_nid(rootfs, inode->nid),
                                      .attr_timeout = ROOTFS_FOREVER,
                                      .entry_timeout = ROOTFS_FOREVER };
    fill_attributes(rootfs, inode, &ret->attr);
}

void rootfs_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct rootfs *rootfs = fuse_server_context(request);
    struct erofs_inode directory, inode;
    uint64_t nid;
    size_t length = strlen(name);
    if (length > NAME_MAX) {
        fuse_reply_err(request, ENAMETOOLONG);
        return;
    }
    int result = rootfs_inode(rootfs, parent, &directory);
    if (!result && !S_ISDIR(directory.mode)) result = -ENOTDIR;
    if (!result) result = erofs_image_lookup(rootfs->image, &directory, name, length, &nid);
    if (!result) result = erofs_image_inode(rootfs->image, nid, &inode);
    result = (int)rootfs_checked(rootfs, result);

    struct fuse_entry_param entry = { .entry_timeout = ROOTFS_FOREVER };
    if (!result) rootfs_fill_entry(rootfs, &inode, &entry);
    /* Node 0 lets the kernel remember that the name is missing. */
    if (!result || result == -ENOENT)
        fuse_reply_entry(request, &entry);
    else
        fuse_reply_err(request, -result);
}

/* A node is a place in the image: there is nothing to release. */
void rootfs_forget(fuse_req_t request, fuse_ino_t node, uint64_t count)
{
    (void)node;
    (void)count;
    fuse_reply_none(request);
}

void rootfs_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets)
{
    (void)count;
    (void)forgets;
    fuse_reply_none(request);
}

void rootfs_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)file;
    struct rootfs *rootfs = fuse_server_context(request);
    struct erofs_inode inode;
    int result = (int)rootfs_checked(rootfs, rootfs_inode(rootfs, node, &inode));
    if (result < 0) {
        fuse_reply_err(request, -result);
        return;
    }
    struct stat attributes;
    fill_attributes(rootfs, &inode, &attributes);
    fuse_reply_attr(request, &attributes, ROOTFS_FOREVER);
}

void rootfs_readlink(fuse_req_t request, fuse_ino_t node)
{
    struct rootfs *rootfs = fuse_server_context(request);
    struct erofs_inode inode;
    const char *target = NULL;
    /* What goes into a system call must be a copy: see base/mapping.h. */
    char copy[PATH_MAX];
    size_t length = 0;
    int result = rootfs_inode(rootfs, node, &inode);
    if (!result && !S_ISLNK(inode.mode)) result = -EINVAL;
    if (!result) result = erofs_image_symlink(rootfs->image, &inode, &target, &length);
    if (!result && length >= PATH_MAX) result = -EIO;
    if (!result) memcpy(copy, target, length);
    result = (int)rootfs_checked(rootfs, result);
    if (result < 0)
        fuse_reply_err(request, -result);
    else
        fuse_reply_buf(request, copy, length);
}

void rootfs_statfs(fuse_req_t request, fuse_ino_t node)
{
    (void)node;
    struct rootfs *rootfs = fuse_server_context(request);
    struct statvfs status = {
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_blocks = rootfs->content_length / 4096 + (rootfs->content_length % 4096 != 0),
        .f_files = rootfs->image->inode_count,
        .f_namemax = NAME_MAX,
    };
    fuse_reply_statfs(request, &status);
}
