/*
 * An image as a node sees it: its index, out of the cache where the node has
 * it, else out of the registry; verified and validated, ready to be served.
 */
#ifndef SLUICE_NODE_NODE_IMAGE_H
#define SLUICE_NODE_NODE_IMAGE_H

#include "base/mapping.h"
#include "cache/cache.h"
#include "index/artifact.h"
#include "index/chunk_table.h"
#include "index/erofs_image.h"
#include "node/image.h"
#include "node/trust.h"

/* A decoded part: a file of the cache, or memory where the cache could not keep it. */
struct part_content {
    struct mapping *mapping; /* or NULL */
    struct buffer memory;
    bool hashed; /* has the digest that the index states */
};

struct node_image {
    struct image image;
    enum index_trust trust;
    struct digest index_digest;
    /* Of the layers that are shown. */
    struct index_artifact artifact;
    bool is_prefix;              /* those are the image's first layers, and not all of them */
    bool is_difference;          /* only what the last of them changes is shown */
    struct chunk_table **tables; /* one a layer */
    struct erofs_image metadata; /* in `metadata_content` */
    struct part_content metadata_content;
};

struct node_image_options {
    const char *reference;
    const struct platform *platform; /* asked for, or NULL */
    const struct digest *pinned;     /* the digest of the index to use, or NULL */
    enum index_trust pinned_trust;   /* how far that one is trusted, unless the manifest names it */
    enum index_trust least_trust;
    bool force; /* also an index that was found to lie */
    /* Only that many layers, from below; 0: all. The metadata of some is merged here, and no
     * profile is theirs. ERROR_UNSUPPORTED: they have too many files for that. */
    uint32_t layers;
    /* Only what the last of these changes: merge_difference(). Made here, too. */
    bool difference;
    /* Called when the artifact is known and before its parts are fetched, for what may come at the
     * same time; perhaps a second time, with another index. May be NULL. */
    void (*artifact_known)(void *context, const struct node_image *node);
    void *context;
};

/*
 * What a tag means is asked of the registry; where that cannot be reached or refuses, it is what it
 * last meant on this node, and a warning says so. A name with a digest that the node knows asks
 * nobody. An index of less than the trust asked for is ERROR_DENIED.
 */
int node_image_load(struct node_image *ret, struct registry_client *client, struct cache *cache,
                    const struct node_image_options *options, struct error **error);
void node_image_free(struct node_image *image);

/* Its metadata is not the index's: it was merged here, of entry tables. */
bool node_image_is_merged_here(const struct node_image *image);

/* Under what the cache remembers the image: the name in full and the platform. In fresh memory;
 * NULL: out of memory. */
char *node_image_memory_name(const struct image *image);

#endif
