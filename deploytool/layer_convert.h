/* A layer of an image as many zstd frames: fetched, unpacked beside, put together anew. */
#ifndef SLUICE_DEPLOYTOOL_LAYER_CONVERT_H
#define SLUICE_DEPLOYTOOL_LAYER_CONVERT_H

#include "base/mapping.h"
#include "fetcher/registry.h"
#include "index/chunk_table.h"
#include "index/entry_table.h"
#include "index/image_manifest.h"
#include "index/image_rewrite.h"
#include "index/profile.h"

/* What is read first of a layer. */
struct layer_profile {
    const struct profile *profile;
    const struct chunk_table *table; /* that it was made for */
    uint32_t layer;                  /* that it means */
};

struct layer_to_convert {
    struct registry_client *client;
    const struct repository *repository;
    const struct descriptor *descriptor;
    const struct digest *stream_digest;     /* diffID */
    const struct layer_profile *profile;    /* NULL: its order is kept */
    const struct entry_table *const *lower; /* the layers below, where there is a profile */
    size_t lower_count;
    int level; /* of zstd */
    unsigned threads;
};

/* Bytes of the new stream that a profile's entry was about. */
struct moved_touch {
    uint64_t offset, length;
    uint32_t entry;
    bool named; /* the entry names the file; else it only lay in the same chunks */
};

struct converted_layer {
    struct mapping *blob; /* a file without a name */
    struct rewritten_layer as;
    uint64_t stream_length;
    size_t frame_count;
    bool reordered;
    struct entry_table *entries;
    struct moved_touch *touches; /* in the order of the profile's entries */
    size_t touch_count;
};

/* Takes room for the layer's stream and for the new blob on the disk while it works, and for the
 * blob until converted_layer_free(). */
int layer_convert(const struct layer_to_convert *layer, struct converted_layer *ret,
                  struct error **error);
void converted_layer_free(struct converted_layer *layer);

#endif
