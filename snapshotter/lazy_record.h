/* What is written down of a lazy image: "image.json" in its directory. */
#ifndef SLUICE_SNAPSHOTTER_LAZY_RECORD_H
#define SLUICE_SNAPSHOTTER_LAZY_RECORD_H

#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"
#include "node/trust.h"

/* The most layers that an image may have; overlayfs knows no more either. */
#define LAZY_LAYERS_MAX 500u

struct lazy_record_layer {
    struct digest blob;
    struct digest chain; /* the chain ID of this layer and those below, as OCI defines it */
};

struct lazy_record {
    char *name;      /* as the client wrote it, for people */
    char *reference; /* registry/repository@digest of the manifest */
    struct digest index;
    enum index_trust trust; /* when it was chosen */
    struct lazy_record_layer *layers;
    uint32_t layer_count;
    struct digest *cache_keys; /* what the node's cache keeps for it: node/give_back.h; sorted */
    size_t cache_key_count;
};

/* Chain IDs out of the layers' stream digests, which are the image's diffIDs. */
void lazy_record_chain(struct lazy_record *record, const struct digest *streams);

int lazy_record_write(const struct lazy_record *record, const char *path, struct error **error);
int lazy_record_read(struct lazy_record *ret, const char *path, struct error **error);
void lazy_record_free(struct lazy_record *record);

#endif
