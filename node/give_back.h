/* What a node's cache keeps of an image, and giving it back when nobody needs it any more. */
#ifndef SLUICE_NODE_GIVE_BACK_H
#define SLUICE_NODE_GIVE_BACK_H

#include "cache/cache.h"
#include "node/node_image.h"

/* All that the cache may have for the image's sake, as cache_give_back() knows it: what the image
 * and its first layers are mounted from, what a fill and a profile leave there, and the layers; not
 * what a chunk table tells of. In fresh memory; NULL: out of memory. */
struct digest *image_cache_keys(const struct node_image *node, size_t *ret_count);

/* cache_give_back(), with what was fetched for the layers' chunks. */
size_t node_give_back(struct cache *cache, struct digest *digests, size_t count);

#endif
