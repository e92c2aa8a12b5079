/* What the files of a node's image share. */
#ifndef SLUICE_NODE_NODE_IMAGE_INTERNAL_H
#define SLUICE_NODE_NODE_IMAGE_INTERNAL_H

#include <stdatomic.h>

#include "node/node_image.h"

struct loader {
    struct node_image *node;
    struct registry_client *client;
    struct cache *cache;
    _Atomic uint64_t unkept; /* bytes of parts that are held in memory, as the cache cannot */
};

/* A part out of the cache, or else from the registry; with its digest. */
int part_content_load(struct loader *loader, const struct index_part *part,
                      struct part_content *ret, struct error **error);
/* What was made here, as a part that the cache keeps, if it can; `ret_part` gets its digest and
 * length. Takes the buffer. */
int part_content_keep(struct loader *loader, struct buffer *made, struct part_content *ret,
                      struct index_part *ret_part, struct error **error);
const void *part_content_data(const struct part_content *content);
size_t part_content_length(const struct part_content *content);
void part_content_free(struct part_content *content);

/* prefix_merge.c: makes the metadata of an image's first layers of their entry tables, one a layer
 * and loaded; the chunk tables are there. */
int prefix_merge(struct loader *loader, const struct part_content *entries, struct error **error);
/* Before they are loaded. */
int prefix_require_memory(const struct node_image *node, struct error **error);

/* node_parts.c: fetches what the artifact names and a mount needs, checks and validates it; the
 * artifact has been decoded. */
int node_parts_load(struct loader *loader, struct error **error);
void node_parts_free(struct node_image *node);

#endif
