/* Builds the index of an image: scans its layers in parallel, merges, and packs the parts. */
#ifndef SLUICE_DEPLOYTOOL_INDEX_BUILD_H
#define SLUICE_DEPLOYTOOL_INDEX_BUILD_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/mapping.h"
#include "index/artifact.h"
#include "index/layer_scan.h"
#include "node/image.h"

/* A blob of the index, ready to be pushed or written. */
struct built_part {
    struct index_part part;
    struct buffer blob;
};

struct built_layer {
    struct layer_tables tables; /* the windows blob is moved out into `windows` */
    struct built_part chunks, entries, windows;
};

struct built_index {
    struct built_layer *layers; /* one for each different layer of the image */
    size_t different_count;
    size_t *layer_of; /* position in `layers` of each layer of the image */
    size_t layer_count;
    struct built_part metadata;
    struct built_part profile; /* blob of length 0: there is none */
    uint64_t inode_count;
    struct index_artifact artifact;
    struct buffer manifest; /* the encoded artifact */
    struct digest digest;   /* of `manifest` */
};

struct index_progress {
    _Atomic uint64_t bytes_read; /* of the layers' blobs */
    /* Called when a layer is done, by whichever thread did it; may be NULL. */
    void (*layer_done)(void *context, size_t layer, const struct built_layer *built);
    void *context;
};

/* `threads`: layers at once, 0: the number of cores. `blobs`: the layers' blobs, for each layer of
 * the image, where they are at hand; NULL: they are read from the registry. */
int index_build(const struct image *image, struct registry_client *client, unsigned threads,
                const struct mapping *const *blobs, struct index_progress *progress,
                struct built_index *ret, struct error **error);
/* Makes a built index the successor of the one before (of digest `digest`): takes over its profile
 * where that is of the same chunk tables, and counts the revision up where the two differ. 1: the
 * profile was kept, 0: there is none, or it is of no use (said in the log). */
int built_index_follow(struct built_index *index, const struct image *image,
                       struct registry_client *client, const struct index_artifact *before,
                       const struct digest *digest, struct error **error);
void built_index_free(struct built_index *index);

/* The parts that belong to the index, each once: calls `each` until it returns other than 0. */
int built_index_each_part(const struct built_index *index,
                          int (*each)(void *context, const struct built_part *part), void *context);

#endif
