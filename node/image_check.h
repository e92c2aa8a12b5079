/*
 * Whether an index tells the truth of its image: docs/trust.md, "What fill checks". Chunks are
 * verified against the index as they come; here the index itself is held against the image, by the
 * digests in the image's config, and made again from what came.
 */
#ifndef SLUICE_NODE_IMAGE_CHECK_H
#define SLUICE_NODE_IMAGE_CHECK_H

#include "fuse/layer_device.h"
#include "node/node_image.h"

/* All borrowed. */
struct image_check {
    const struct node_image *node;
    struct cache *cache;
    struct registry_client *client;
    struct layer_device *const *devices; /* one a layer */
    const atomic_bool *cancel;
};

enum check_result {
    CHECK_TRUE,
    CHECK_FALSE,   /* the index says what is not so; the error says what */
    CHECK_UNKNOWN, /* the error says why it cannot be known now */
};

/* Each waits, on this thread. */

/* The config's diffIDs and the chunk tables'. `ret_wrong[i]`, after CHECK_FALSE: layer i is another
 * stream than the image's. */
enum check_result image_check_config(const struct image_check *check, bool *ret_wrong,
                                     struct error **error);
/* Reads a complete layer back, makes its entry table, and seals it. `ret_wrong`, after CHECK_FALSE:
 * its bytes are not the stream that they are said to be; else it is the entry table that is not the
 * layer's. Chunks that are found damaged are not stored any more, and CHECK_UNKNOWN says so. */
enum check_result image_check_layer(const struct image_check *check, size_t layer, bool *ret_wrong,
                                    struct error **error);
/* Whether the layer is sealed; `entries`: and its entry table was made then. */
bool image_layer_is_sealed(const struct image_check *check, size_t layer, bool entries);
/* The metadata is what merging the layers' entry tables gives, after all layers were checked.
 * CHECK_UNKNOWN with ERROR_UNSUPPORTED: it would take too much memory to know. */
enum check_result image_check_tree(const struct image_check *check, struct error **error);

/* That all of it was checked is remembered on the node. */
void image_check_remember(const struct image_check *check);
bool image_check_recall(const struct image_check *check);
/* Under what: of the image's first `layers` layers, or of all for 0. In fresh memory; NULL: out of
 * memory. */
char *image_check_memory_name(const struct node_image *node, size_t layers);

#endif
