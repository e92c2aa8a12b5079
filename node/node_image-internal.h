/* What the files of a node's image share. */
#ifndef SLUICE_NODE_NODE_IMAGE_INTERNAL_H
#define SLUICE_NODE_NODE_IMAGE_INTERNAL_H

#include <stdatomic.h>

#include "node/node_image.h"

struct loader {
    struct node_image *node;
    struct registry_client *client;
    struct cache *cache;
    _Atomic uint64_t unkept; /* bytes of parts that are held in memory, as the cache cannot */
};

/* node_parts.c: fetches what the artifact names and a mount needs, checks and validates it; the
 * artifact has been decoded. */
int node_parts_load(struct loader *loader, struct error **error);
void node_parts_free(struct node_image *node);

#endif
