/* What is in a node's cache, as JSON: `sluice cache ls`. */
#ifndef SLUICE_DEPLOYTOOL_CACHE_LIST_H
#define SLUICE_DEPLOYTOOL_CACHE_LIST_H

#include "base/json.h"
#include "cache/cache.h"

/* A new reference; NULL: out of memory. */
json_t *cache_list(struct cache *cache);
void cache_list_print(const json_t *list);

#endif
