/*
 * Attaching a FUSE connection to a directory, and detaching it: by mount(2)
 * where that is allowed, else through the setuid helper fusermount3. libfuse is
 * not asked, because it closes the descriptor when it unmounts, while replies
 * to parked reads may still be written by other threads.
 */
#ifndef SLUICE_FUSE_FUSE_MOUNT_H
#define SLUICE_FUSE_FUSE_MOUNT_H

#include <stdbool.h>

#include "base/error.h"

/* What /proc/mounts shows as the type of every mount of ours. */
#define FUSE_MOUNT_TYPE "fuse.sluice"

struct fuse_mount_options {
    const char *source;
    bool allow_suid, allow_devices; /* only root can ask for these */
    bool allow_other;               /* implied for root */
};

struct fuse_mount {
    char *mountpoint; /* owned; resolved */
    unsigned device_major, device_minor;
    bool attached;
};

/* Mounts read-only with default_permissions. Returns the connection's descriptor (owned by the
 * caller, close-on-exec), or -1. The kernel's FUSE_INIT waits in it. */
int fuse_mount_attach(struct fuse_mount *ret, const char *mountpoint,
                      const struct fuse_mount_options *options, struct error **error);

/* Takes the mount out of the name space, at once, also when files are open in it; nothing happens
 * if it is not (or no longer) there. The descriptor stays usable. */
void fuse_mount_detach(struct fuse_mount *mount);
/* Detaches first. */
void fuse_mount_free(struct fuse_mount *mount);

/* Requests that the kernel sends at once for what nobody waits for, readahead above all. It starts
 * with 12 and then itself parks reads that could be answered at once behind others that wait for
 * the network. */
#define FUSE_MOUNT_BACKGROUND 4096u
/* Raises the kernel's readahead for this mount, and its bound for requests at once, which it takes
 * from the server's FUSE_INIT only up to a share of the memory; only root can. After FUSE_INIT. */
void fuse_mount_tune(const struct fuse_mount *mount);

#endif
