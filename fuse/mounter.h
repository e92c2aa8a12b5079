/* Who mounts for a server that may not (node/broker.h). */
#ifndef SLUICE_FUSE_MOUNTER_H
#define SLUICE_FUSE_MOUNTER_H

#include <stdint.h>

#include "base/error.h"

/* What the kernel is to mount by itself. */
struct kernel_tree {
    const char *source; /* what /proc/mounts shows, behind EROFS_MOUNT_SOURCE */
    int metadata;       /* the EROFS image, a plain file */
    const int *devices; /* of each device a plain file with its bytes, or -1: the device mount's
                           file of its number, from 1 */
    uint32_t device_count;
};

struct mounter {
    /* As fuse_mount_attach(): the connection's descriptor, or -1. */
    int (*attach)(void *context, const char *source, struct error **error);
    /* As device_mount_attach(): the connection's descriptor, or -1. */
    int (*attach_devices)(void *context, struct error **error);
    /* As erofs_mount_attach(): a descriptor that tells the end, or -1. */
    int (*attach_kernel)(void *context, const struct kernel_tree *tree, struct error **error);
    /* As tree_mount_set_readahead(); and fuse_mount_tune(), for a FUSE tree. Any thread. */
    void (*tune)(void *context, unsigned readahead);
    /* As tree_mount_detach(). */
    void (*detach)(void *context);
    void *context;
};

#endif
