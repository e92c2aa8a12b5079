/* What a process that serves images has once, however many they are. */
#ifndef SLUICE_NODE_NODE_H
#define SLUICE_NODE_NODE_H

#include <stdbool.h>

#include "base/error.h"
#include "cache/cache.h"
#include "fetcher/registry.h"
#include "fuse/layer_device.h"
#include "node/node_cache.h"
#include "node/shared_layers.h"

/* Borrowed by all that is made with it. */
struct node {
    struct registry_client *client;
    struct cache *cache;
    struct data_path *path;
    struct shared_layers *layers;
};

struct node_options {
    const char *cache; /* directory */
    struct node_cache_limits cache_limits;
    bool plain_http;
    const char *hosts_directory;       /* as struct registry_options */
    registry_credentials *credentials; /* as struct registry_options */
    void *credentials_context;
    unsigned read_timeout_seconds; /* a read that waits for so long is EIO */
};

/* node_close() is right also after a failure. */
int node_open(struct node *ret, const struct node_options *options, struct error **error);
/* After everything that was made with it. */
void node_close(struct node *node);

#endif
