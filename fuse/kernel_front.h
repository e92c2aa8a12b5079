/*
 * The kernel front door: the kernel shows the tree, out of the metadata as EROFS, and answers from
 * its page cache; this process is asked for bytes of devices only (device_files.h).
 *
 * Ends like rootfs.h: kernel_front_serve() returns, the devices are closed, kernel_front_free().
 */
#ifndef SLUICE_FUSE_KERNEL_FRONT_H
#define SLUICE_FUSE_KERNEL_FRONT_H

#include "base/error.h"
#include "base/mapping.h"
#include "fuse/fuse_server.h"
#include "fuse/layer_device.h"
#include "fuse/mounter.h"
#include "index/erofs_image.h"

struct kernel_front;

struct kernel_front_resumed {
    int connection; /* of the devices; -1: the kernel has files of all */
    int end;
};

struct kernel_front_options {
    const char *source;                 /* the image's name */
    const struct mounter *mounter;      /* borrowed */
    int metadata;                       /* a descriptor of the file that the image was read from */
    const struct mapping *mapping;      /* of it, borrowed */
    struct device_reader *reader;       /* as struct rootfs_options */
    unsigned readahead;                 /* KiB, as tree_mount_set_readahead() */
    const int *complete;                /* of each layer its file, or -1; NULL: none */
    const struct fuse_lasting *lasting; /* as struct fuse_server_options; or NULL */
    /* Of a tree that is mounted already, as the mounter made them, taken over, also when it fails;
     * else NULL. */
    const struct kernel_front_resumed *resumed;
};

/* As rootfs_mount(). An error also tells that this kernel cannot: nothing is mounted then. */
int kernel_front_mount(struct kernel_front **ret, const struct erofs_image *image,
                       struct layer_device *const *devices, uint32_t device_count,
                       const struct kernel_front_options *options, struct error **error);
/* Calls `ready` and serves until the file system is gone from everywhere, or
 * kernel_front_stop(). */
int kernel_front_serve(struct kernel_front *front, void (*ready)(void *context), void *context,
                       struct error **error);
/* For the next server of a connection that lasts; borrowed. -1, NULL: there is no connection. */
int kernel_front_connection(const struct kernel_front *front);
const struct fuse_negotiated *kernel_front_negotiated(const struct kernel_front *front);
/* As extent_reader_refuse(); layers that the kernel has as files cannot be refused. */
void kernel_front_refuse(struct kernel_front *front, uint32_t layer);
/* From now on, on any thread. */
void kernel_front_set_readahead(struct kernel_front *front, unsigned kibibytes);
/* Safe in a signal handler and on any thread, until kernel_front_free(). */
void kernel_front_stop(struct kernel_front *front);
/* As rootfs_free(): who still uses the tree gets EIO for what the kernel does not have. */
void kernel_front_free(struct kernel_front *front);

#endif
