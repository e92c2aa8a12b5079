/* What the files of the FUSE front door share. */
#ifndef SLUICE_FUSE_ROOTFS_INTERNAL_H
#define SLUICE_FUSE_ROOTFS_INTERNAL_H

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdint.h>

#include "fuse/extent_reader.h"
#include "fuse/fuse_server.h"
#include "fuse/rootfs.h"
#include "fuse/tree_mount.h"

struct rootfs {
    const struct erofs_image *image;
    const struct mapping *metadata; /* or NULL */
    const struct mounter *mounter;  /* or NULL */
    atomic_bool damage_told;
    uint64_t content_length; /* of all devices: what statfs(2) calls the size */

    struct fuse_server *server;
    struct extent_reader *reader;
    struct tree_mount mount;
    unsigned readahead; /* KiB */
    bool no_open, no_opendir;
    bool resumed; /* another server has mounted it */
};

/* rootfs_metadata.c: everything that is answered from the image alone. */
void rootfs_lookup(fuse_req_t request, fuse_ino_t parent, const char *name);
void rootfs_forget(fuse_req_t request, fuse_ino_t node, uint64_t count);
void rootfs_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets);
void rootfs_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file);
void rootfs_readlink(fuse_req_t request, fuse_ino_t node);
void rootfs_statfs(fuse_req_t request, fuse_ino_t node);
/* Finds the node's inode; 0 or a negative errno. */
int rootfs_inode(const struct rootfs *rootfs, fuse_ino_t node, struct erofs_inode *ret);
/* Asked before each answer that was read from the image: `result`, or -EIO where what was read
 * cannot be believed. */
ssize_t rootfs_checked(struct rootfs *rootfs, ssize_t result);
void rootfs_fill_entry(const struct rootfs *rootfs, const struct erofs_inode *inode,
                       struct fuse_entry_param *ret);
/* Nothing in an image ever changes. In seconds; the kernel caps it. */
#define ROOTFS_FOREVER 1e12

/* rootfs_directory.c */
void rootfs_readdir(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *file);
void rootfs_readdirplus(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                        struct fuse_file_info *file);

/* rootfs_xattr.c */
void rootfs_getxattr(fuse_req_t request, fuse_ino_t node, const char *name, size_t size);
void rootfs_listxattr(fuse_req_t request, fuse_ino_t node, size_t size);

/* rootfs_seek.c */
void rootfs_lseek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence,
                  struct fuse_file_info *file);

#endif
