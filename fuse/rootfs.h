/*
 * The plain FUSE front door: the merged tree of an image as a read-only file
 * system. All metadata is answered from the mapped index without asking anybody;
 * file contents come from layer devices.
 *
 * A server ends in this order: rootfs_serve() returns (the tree is out of the
 * name space by then, and no new read reaches a device), the devices are closed
 * (reads that are still parked answer EIO), rootfs_free().
 */
#ifndef SLUICE_FUSE_ROOTFS_H
#define SLUICE_FUSE_ROOTFS_H

#include <stdbool.h>

#include "base/error.h"
#include "base/mapping.h"
#include "fuse/fuse_server.h"
#include "fuse/layer_device.h"
#include "fuse/mounter.h"
#include "index/erofs_image.h"

struct rootfs;

struct rootfs_options {
    const char *mountpoint; /* an existing directory, absolute */
    const char *source;     /* what /proc/mounts shows: the image's name; copied */
    bool allow_suid;        /* default: nosuid; only root may ask */
    bool allow_devices;     /* default: nodev; only root may ask */
    bool allow_other;       /* implied for root; others need user_allow_other in /etc/fuse.conf */
    unsigned threads;       /* that take requests; 0: 4 */
    unsigned readahead;     /* KiB, as tree_mount_set_readahead(); 0: 128 */
    /* NULL: this process itself. Else borrowed, and the three options above are the mounter's. */
    const struct mounter *mounter;
    /* What `image` lies in, or NULL where that cannot be damaged; borrowed. Once it is, whatever
     * has to be looked up in the image is EIO. */
    const struct mapping *metadata;
    struct device_reader *reader; /* that devices are read for; borrowed, or NULL */
    /* As struct fuse_server_options, or NULL. Where it says what was negotiated, the tree is
     * mounted already, and `resumed` is the connection, which is taken over, also when it fails. */
    const struct fuse_lasting *lasting;
    int resumed;
};

/* `image` must have been validated; `devices[i]` is EROFS device i + 1, and there is one for each
 * device of the image. All are borrowed; the array of devices is copied. Mounts at once: who looks
 * into the tree waits until rootfs_serve() runs. */
int rootfs_mount(struct rootfs **ret, const struct erofs_image *image,
                 struct layer_device *const *devices, uint32_t device_count,
                 const struct rootfs_options *options, struct error **error);
/* Serves until the file system is unmounted everywhere or rootfs_stop() is called; may be called
 * once. `ready` (may be NULL) is called on this thread once the kernel's FUSE_INIT has been
 * answered: from then on the tree can be used. */
int rootfs_serve(struct rootfs *rootfs, void (*ready)(void *context), void *context,
                 struct error **error);
/* For the next server of a connection that lasts; borrowed. Once `ready` was called. */
int rootfs_connection(const struct rootfs *rootfs);
const struct fuse_negotiated *rootfs_negotiated(const struct rootfs *rootfs);
/* As extent_reader_refuse(); layers that the kernel has as files cannot be refused. */
void rootfs_refuse(struct rootfs *rootfs, uint32_t layer);
/* From now on, on any thread. */
void rootfs_set_readahead(struct rootfs *rootfs, unsigned kibibytes);
/* Safe in a signal handler and on any thread, until rootfs_free(). */
void rootfs_stop(struct rootfs *rootfs);
/* Unmounts if still mounted, waits until the devices have answered what they were asked, and ends
 * the connection: who still has files open in the tree gets ENOTCONN. NULL is allowed. */
void rootfs_free(struct rootfs *rootfs);

#endif
