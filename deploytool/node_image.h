/*
 * An image as a node sees it: its index, out of the cache where the node has
 * it, else out of the registry; verified and validated, ready to be served.
 */
#ifndef SLUICE_DEPLOYTOOL_NODE_IMAGE_H
#define SLUICE_DEPLOYTOOL_NODE_IMAGE_H

#include "cache/cache.h"
#include "deploytool/image.h"
#include "index/artifact.h"
#include "index/chunk_table.h"
#include "index/erofs_image.h"

/* How the index was found: design decision 7. */
enum index_trust {
    TRUST_PINNED,   /* its digest was given */
    TRUST_REFERRER, /* found beside the image: whoever may push there can have put it there */
};
const char *index_trust_name(enum index_trust trust);

struct node_image {
    struct image image;
    enum index_trust trust;
    struct digest index_digest;
    struct index_artifact artifact;
    struct chunk_table **tables; /* one a layer */
    struct erofs_image metadata; /* in `mapping` */
    void *mapping;
    size_t mapping_length;
};

/*
 * `pinned` (or NULL) is the digest of the index to use. What a tag means is asked of the registry;
 * where that cannot be reached or refuses, it is what it last meant on this node, and a warning
 * says so. A name with a digest that the node knows asks nobody.
 */
int node_image_load(struct node_image *ret, struct registry_client *client, struct cache *cache,
                    const char *reference, const struct platform *platform,
                    const struct digest *pinned, struct error **error);
void node_image_free(struct node_image *image);

#endif
