/* What the files behind struct layer_cache share. */
#ifndef SLUICE_CACHE_LAYER_CACHE_INTERNAL_H
#define SLUICE_CACHE_LAYER_CACHE_INTERNAL_H

#include "cache/layer_files-internal.h"

/* Its files, until it is closed; NULL: it has none, and stores nothing. */
const struct layer_files *layer_cache_files(const struct layer_cache *layer,
                                            struct cache **ret_cache);

#endif
