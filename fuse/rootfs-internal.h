/* What the files of the FUSE front door share. */
#ifndef SLUICE_FUSE_ROOTFS_INTERNAL_H
#define SLUICE_FUSE_ROOTFS_INTERNAL_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "fuse/fuse_mount.h"
#include "fuse/rootfs.h"

struct read_request;

struct rootfs {
    const struct erofs_image *image;
    const struct mapping *metadata;       /* or NULL */
    const struct rootfs_mounter *mounter; /* or NULL */
    atomic_bool damage_told;
    struct layer_device **devices;
    uint32_t device_count;
    uint64_t content_length; /* of all devices: what statfs(2) calls the size */

    struct fuse_session *session;
    struct fuse_mount mount;
    int wake; /* eventfd: rootfs_stop() was called, or a thread has ended */
    unsigned thread_count;
    bool initialized; /* FUSE_INIT came */
    bool no_open, no_opendir;

    /* Reads that the devices have not answered yet (rootfs_read.c). */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t reads_outstanding;
    size_t gather_memory; /* bytes that are being gathered */
    struct read_request *gather_first, *gather_last;
    bool gather_starting; /* some thread is starting what waits in the list */
    bool closing;
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

/* rootfs_read.c */
void rootfs_read(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                 struct fuse_file_info *file);
/* Answers the reads that no device was asked for yet, and takes care that none will be. */
void rootfs_read_close(struct rootfs *rootfs);
/* Waits for the devices' answers. */
void rootfs_read_drain(struct rootfs *rootfs);

#endif
