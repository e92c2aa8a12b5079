/*
 * Mounting by the kernel: the metadata as EROFS, over files with the bytes of its devices. Devices
 * that are not complete are files of a FUSE file system that is mounted nowhere (device_files.h).
 * EROFS holds the files that it opened, and they hold that file system: when the tree is gone from
 * every mount namespace, the FUSE connection ends.
 *
 * Linux mounts EROFS from plain files from 6.12 on; where and on which file systems is found out by
 * trying.
 */
#ifndef SLUICE_FUSE_EROFS_MOUNT_H
#define SLUICE_FUSE_EROFS_MOUNT_H

#include "base/error.h"
#include "fuse/mounter.h"
#include "fuse/tree_mount.h"

/* What the sources of our mounts begin with in /proc/mounts, where their type is "erofs". */
#define EROFS_MOUNT_SOURCE "sluice:"

/* Makes a FUSE file system for devices. Returns its connection's descriptor, or -1; *ret_mount
 * keeps it alive until erofs_mount_attach() has been called. */
int device_mount_attach(int *ret_mount, struct error **error);

struct erofs_mount_options {
    bool allow_suid, allow_devices;
};

/* Mounts the tree. `device_mount` is served by now, or -1 where no device needs it. Returns a
 * descriptor that becomes readable when the file system has gone from every namespace, or -1. */
int erofs_mount_attach(struct tree_mount *ret, const char *mountpoint,
                       const struct kernel_tree *tree, int device_mount,
                       const struct erofs_mount_options *options, struct error **error);

#endif
