/* The server behind a mount: one process that holds the image, the cache, the data path and FUSE.
 */
#ifndef SLUICE_NODE_SERVER_H
#define SLUICE_NODE_SERVER_H

#include <stdbool.h>

#include "base/digest.h"
#include "base/error.h"
#include "index/image_manifest.h"
#include "node/fill.h"
#include "node/front.h"
#include "node/node_cache.h"
#include "node/trust.h"

struct server_options {
    const char *reference;
    const char *mountpoint; /* absolute, resolved */
    const char *cache;      /* directory */
    struct node_cache_limits cache_limits;
    const struct platform *platform; /* asked for, or NULL */
    bool plain_http;
    const char *hosts_directory;       /* as struct registry_options */
    const struct digest *pinned_index; /* or NULL */
    enum index_trust least_trust;
    unsigned read_timeout_seconds; /* a read that waits for so long is EIO */
    bool allow_suid, allow_devices;
    enum front_kind front;
    bool no_profile;
    uint64_t prefetch_limit; /* bytes; 0: half of the cache's size */
    const char *record; /* absolute path of a file to write the order of first reads to, or NULL */
    enum fill_mode fill;
    uint64_t fill_rate; /* as struct fill_options */
    bool force;         /* also an index that was found to lie */
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
