/* An image's config and manifest for other layers of the same content; all else is kept. */
#ifndef SLUICE_INDEX_IMAGE_REWRITE_H
#define SLUICE_INDEX_IMAGE_REWRITE_H

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

#define MEDIA_TYPE_OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define MEDIA_TYPE_LAYER_ZSTD "application/vnd.oci.image.layer.v1.tar+zstd"

struct rewritten_layer {
    struct digest blob_digest;
    uint64_t blob_length;
    struct digest stream_digest; /* diffID */
};

/* With the diffIDs of `layers`, of which there must be as many as the config names. To the byte as
 * it was where they are the same. */
int image_config_rewrite(const void *config, size_t length, const struct rewritten_layer *layers,
                         size_t count, struct buffer *ret, struct error **error);

/* With these layers, all MEDIA_TYPE_LAYER_ZSTD, and this config. A manifest in Docker's dialect,
 * which has no zstd, becomes one of OCI's. What is said of a layer beside digest and length
 * (annotations, places to fetch it from) was about its bytes and goes, as does the name of an
 * index. */
int image_manifest_rewrite(const void *manifest, size_t length, const struct digest *config,
                           uint64_t config_length, const struct rewritten_layer *layers,
                           size_t count, struct buffer *ret, struct error **error);

#endif
