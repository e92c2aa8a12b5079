/* Which front door a mount has: the kernel's EROFS where that can be, else FUSE. */
#ifndef SLUICE_NODE_FRONT_H
#define SLUICE_NODE_FRONT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fuse/fuse_server.h"
#include "fuse/layer_device.h"
#include "fuse/mounter.h"
#include "node/node_image.h"

enum front_kind { FRONT_AUTO, FRONT_EROFS, FRONT_FUSE };

/* "auto", "erofs", "fuse". */
int front_parse(enum front_kind *ret, const char *text, struct error **error);
const char *front_kind_name(enum front_kind kind);

struct front;

/* What the kernel reads ahead, and brings with each fault of a mapped file. */
enum front_readahead {
    READAHEAD_LITTLE, /* the kernel's own 128 KiB: more would be more to fetch */
    READAHEAD_MUCH,   /* everything is on the node: it costs nothing but memory */
};

/* A tree that another server has mounted. */
struct front_resumed {
    bool by_kernel;
    int connection, end; /* -1: there is none (struct kernel_front_resumed; FUSE has no end) */
    bool has_negotiated; /* where there is a connection */
    struct fuse_negotiated negotiated;
    const char *files;  /* a '1' for each layer of which the kernel has the file, else a '0' */
    const char *reason; /* front_reason() */
};

struct front_options {
    enum front_kind kind;
    const char *mountpoint;
    enum front_readahead readahead;
    const struct mounter *mounter;
    struct device_reader *reader; /* as struct rootfs_options */
    /* Layers that are sealed are given to the kernel as files, unless who reads them is to be
     * known. */
    bool all_through_server;
    /* As struct fuse_server_options, without what was negotiated; or NULL. */
    const struct fuse_lasting *lasting;
    /* Instead of mounting; or NULL. Its descriptors are taken over, also when it fails. */
    const struct front_resumed *resumed;
};

/* All is borrowed. What asks the kernel front door for what it cannot do is an error only if that
 * was asked for. */
int front_mount(struct front **ret, const struct node_image *node,
                struct layer_device *const *devices, uint32_t device_count,
                const struct front_options *options, struct error **error);
/* As rootfs_serve(), rootfs_stop() and rootfs_free(). */
int front_serve(struct front *front, void (*ready)(void *context), void *context,
                struct error **error);
/* This image's reads of a layer (from 0) are EIO from now on, where the kernel does not have it as
 * a file. Any thread, as the next. */
void front_refuse(struct front *front, uint32_t layer);
/* From now on, on any thread until front_free(). */
void front_set_readahead(struct front *front, enum front_readahead readahead);
void front_stop(struct front *front);
void front_free(struct front *front);

/* For the next server of a tree that lasts, once it is served; borrowed. -1, NULL: no connection.
 */
int front_connection(const struct front *front);
const struct fuse_negotiated *front_negotiated(const struct front *front);
/* Whether the kernel reads the layer (from 0) without the server. */
bool front_has_file(const struct front *front, uint32_t layer);
/* "erofs" or "fuse", and why that one. */
const char *front_name(const struct front *front);
const char *front_reason(const struct front *front);

#endif
