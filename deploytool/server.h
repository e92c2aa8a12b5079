/* The server behind a mount: one process that holds the image, the cache, the data path and FUSE.
 */
#ifndef SLUICE_DEPLOYTOOL_SERVER_H
#define SLUICE_DEPLOYTOOL_SERVER_H

#include <stdbool.h>

#include "base/digest.h"
#include "base/error.h"
#include "index/image_manifest.h"

struct server_options {
    const char *reference;
    const char *mountpoint; /* absolute, resolved */
    const char *cache;      /* directory */
    struct platform platform;
    bool plain_http;
    const struct digest *pinned_index; /* or NULL */
    bool allow_suid, allow_devices;
};

/*
 * Mounts and serves until the tree is unmounted or a signal (SIGTERM, SIGINT) asks for the end;
 * nothing is left mounted then. `ready` is called once the tree is usable; what goes wrong before
 * is an error, and nothing is mounted.
 */
int server_run(const struct server_options *options, void (*ready)(void *context), void *context,
               struct error **error);

#endif
