/*
 * Attaching a FUSE connection to a directory: by mount(2) where that is
 * allowed, else through the setuid helper fusermount3. libfuse is not asked,
 * because it closes the descriptor when it unmounts, while replies to parked
 * reads may still be written by other threads.
 */
#ifndef SLUICE_FUSE_FUSE_MOUNT_H
#define SLUICE_FUSE_FUSE_MOUNT_H

#include <stdbool.h>

#include "base/error.h"
#include "fuse/tree_mount.h"

/* What /proc/mounts shows as the type of every mount by this door. */
#define FUSE_MOUNT_TYPE "fuse.sluice"

struct fuse_mount_options {
    const char *source;
    bool allow_suid, allow_devices; /* only root can ask for these */
    bool allow_other;               /* implied for root */
};

/* Mounts read-only with default_permissions. Returns the connection's descriptor (owned by the
 * caller, close-on-exec), or -1. The kernel's FUSE_INIT waits in it. */
int fuse_mount_attach(struct tree_mount *ret, const char *mountpoint,
                      const struct fuse_mount_options *options, struct error **error);

/* Requests that the kernel sends at once for what nobody waits for, readahead above all. It starts
 * with 12 and then itself parks reads that could be answered at once behind others that wait for
 * the network. */
#define FUSE_MOUNT_BACKGROUND 4096u
/* Raises the kernel's bound for requests at once, which it takes from the server's FUSE_INIT only
 * up to a share of the memory; only root can. After FUSE_INIT. The number is that of the
 * superblock's device. */
void fuse_mount_tune(unsigned device_minor);

#endif
