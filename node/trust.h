/* How much an index is to be believed: docs/trust.md. */
#ifndef SLUICE_NODE_TRUST_H
#define SLUICE_NODE_TRUST_H

#include "base/digest.h"
#include "base/error.h"
#include "cache/cache.h"
#include "fetcher/registry.h"
#include "node/image.h"

/* From the least to the most. */
enum index_trust {
    TRUST_REFERRER, /* found beside the image: whoever may push there can have put it there */
    TRUST_PINNED,   /* its digest was given, or the image's manifest names it */
};
const char *index_trust_name(enum index_trust trust);
int index_trust_parse(enum index_trust *ret, const char *text, struct error **error);

struct chosen_index {
    struct digest digest;
    enum index_trust trust;
};

/*
 * Which index of an image is used: the one that was pinned, else the one that its manifest names,
 * else `known` (or NULL: the one that this node found beside it before), else the one that the
 * registry lists now. -1: there is none, or the registry cannot be asked.
 */
int index_choose(const struct image *image, struct registry_client *client,
                 const struct digest *pinned, const struct digest *known, struct chosen_index *ret,
                 struct error **error);
/* ERROR_DENIED where the index is trusted less than `least`. */
int index_trust_require(const struct image *image, const struct chosen_index *chosen,
                        enum index_trust least, struct error **error);

/* ---- indexes that were found to lie (node/image_check.h) ---- */

/* Notes it on this node. `of_image`: it contradicts this image's config, and may be true of
 * others'.
 */
int index_refuse(struct cache *cache, const struct image *image, const struct digest *index,
                 bool of_image, const char *reason, struct error **error);
/* Why this index of the image is not to be used, in fresh memory; NULL: it may be. */
char *index_refusal(struct cache *cache, const struct image *image, const struct digest *index);
/* ERROR_DENIED where it is not to be used; with `force` a warning says so. */
int index_require_truth(struct cache *cache, const struct image *image, const struct digest *index,
                        bool force, struct error **error);
/* It was checked and is true. */
void index_end_refusal(struct cache *cache, const struct image *image, const struct digest *index);

#endif
