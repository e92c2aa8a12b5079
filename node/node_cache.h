/* The cache directory of this node: where it is, how much it may hold, what a mount needs of it. */
#ifndef SLUICE_NODE_NODE_CACHE_H
#define SLUICE_NODE_NODE_CACHE_H

#include "cache/cache.h"
#include "node/node_image.h"

/* root's cache */
#define NODE_CACHE_SYSTEM "/var/cache/sluice"

/* What --cache-size and --cache-reserve say. */
struct node_cache_limits {
    uint64_t size; /* 0: no bound */
    bool reserve_given;
    uint64_t reserve;
};

/* `given`, or where this user's cache is without --cache. In fresh memory; NULL: error is set. */
char *node_cache_directory(const char *given, struct error **error);
/* The options' values; -1: error is set. */
int node_cache_parse_size(struct node_cache_limits *limits, const char *text, struct error **error);
int node_cache_parse_reserve(struct node_cache_limits *limits, const char *text,
                             struct error **error);
int node_cache_open(struct cache **ret, const char *directory,
                    const struct node_cache_limits *limits, struct error **error);
/* Says that this process serves the image, so that nothing takes away what the mount needs to be
 * made again, until cache_end_use(). What goes wrong is a warning. */
void node_cache_declare(struct cache *cache, const struct node_image *node, const char *mountpoint,
                        struct cache_user **user);

/* "500M", "20GiB", "1.5TB": bytes. A letter alone means powers of 1024. */
int parse_size(const char *text, uint64_t *ret, struct error **error);

#endif
