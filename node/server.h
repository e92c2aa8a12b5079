/* The server behind a mount: one process that holds the image, the cache, the data path and FUSE.
 */
#ifndef SLUICE_NODE_SERVER_H
#define SLUICE_NODE_SERVER_H

#include "node/mounted_image.h"
#include "node/node.h"

struct server_options {
    struct node_options node;           /* credentials are the broker's */
    struct mounted_image_options image; /* and so is the mounter */
    bool allow_suid, allow_devices;
};

/* The tree is usable. -1: nobody wants it any more; it is unmounted again. */
typedef int server_ready(void *context);

/*
 * Mounts and serves until the tree is unmounted or a signal (SIGTERM, SIGINT, SIGHUP) asks for the
 * end; nothing is left mounted then. What goes wrong before `ready` is an error, and nothing is
 * mounted.
 */
int server_run(const struct server_options *options, server_ready *ready, void *context,
               struct error **error);

#endif
