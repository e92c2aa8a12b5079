/* An image with its layers as many zstd frames each, pushed with its index. */
#ifndef SLUICE_DEPLOYTOOL_CONVERT_H
#define SLUICE_DEPLOYTOOL_CONVERT_H

#include "deploytool/convert_profile.h"
#include "deploytool/index_build.h"
#include "deploytool/index_publish.h"
#include "deploytool/layer_convert.h"
#include "node/image.h"

struct conversion {
    const struct image *source; /* resolved */
    struct image *target;       /* parsed, with a tag; the new manifest is set in it */
    struct registry_client *client;
    const struct source_profile *profile; /* NULL: none */
    int level;
    unsigned threads; /* 0: the number of cores */
    /* Called when a layer of the source is done. May be NULL. */
    void (*layer_done)(void *context, size_t layer, const struct converted_layer *converted);
    void *context;
};

struct conversion_result {
    struct built_index index;
    struct publish_result index_published;
    struct digest manifest;             /* that the tag names; it names the index */
    uint64_t bytes_before, bytes_after; /* of the layers' blobs */
    uint64_t bytes_pushed;              /* of them; those that were there are not */
    size_t layers_reordered;
    struct profile_cost profile_before, profile_after; /* where there is a profile */
};

/* Pushes layers, config and index first, and last the manifest under the tag: until then nobody
 * sees anything of it. */
int convert_image(const struct conversion *conversion, struct conversion_result *ret,
                  struct error **error);
void conversion_result_free(struct conversion_result *result);

#endif
