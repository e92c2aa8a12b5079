/* A layer of an image as many zstd frames: fetched, unpacked beside, put together anew. */
#ifndef SLUICE_DEPLOYTOOL_LAYER_CONVERT_H
#define SLUICE_DEPLOYTOOL_LAYER_CONVERT_H

#include "base/mapping.h"
#include "fetcher/registry.h"
#include "index/image_manifest.h"
#include "index/image_rewrite.h"
#include "index/layer_members.h"

struct layer_to_convert {
    struct registry_client *client;
    const struct repository *repository;
    const struct descriptor *descriptor;
    const struct digest *stream_digest; /* diffID */
    int level;                          /* of zstd */
    unsigned threads;
};

struct converted_layer {
    struct mapping *blob; /* a file without a name */
    struct rewritten_layer as;
    uint64_t stream_length;
    size_t frame_count;
};

/* Takes room for the layer's stream and for the new blob on the disk while it works, and for the
 * blob until converted_layer_free(). */
int layer_convert(const struct layer_to_convert *layer, struct converted_layer *ret,
                  struct error **error);
void converted_layer_free(struct converted_layer *layer);

#endif
