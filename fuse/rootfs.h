/*
 * The plain FUSE front door: the merged tree of an image as a read-only file
 * system. All metadata is answered from the mapped index without asking anybody;
 * file contents come from layer devices.
 */
#ifndef SLUICE_FUSE_ROOTFS_H
#define SLUICE_FUSE_ROOTFS_H

#include <stdbool.h>

#include "base/error.h"
#include "fuse/layer_device.h"
#include "index/erofs_image.h"

struct rootfs;

struct rootfs_options {
    const char *mountpoint; /* an existing directory, absolute */
    const char *source;     /* what /proc/mounts shows: the image's name */
    bool allow_suid;        /* default: nosuid */
    bool allow_devices;     /* default: nodev */
    bool allow_other;       /* as root: yes, with default_permissions */
    unsigned threads;       /* that take requests; 0: 4 */
};

/* `image` must have been validated; `devices[i]` is EROFS device i + 1. All are borrowed.
 * After this the tree is usable as soon as rootfs_serve() runs. */
int rootfs_mount(struct rootfs **ret, const struct erofs_image *image,
                 struct layer_device *const *devices, uint32_t device_count,
                 const struct rootfs_options *options, struct error **error);
/* Serves until the file system is unmounted or rootfs_stop() is called. `ready` (may be NULL) is
 * called once the kernel's FUSE_INIT has been answered. */
int rootfs_serve(struct rootfs *rootfs, void (*ready)(void *context), void *context,
                 struct error **error);
/* Safe in a signal handler. */
void rootfs_stop(struct rootfs *rootfs);
/* Unmounts if still mounted. Call before the devices are closed. */
void rootfs_free(struct rootfs *rootfs);

#endif
