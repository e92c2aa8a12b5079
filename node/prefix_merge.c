/* The metadata of an image's first layers, or of what the last of these changes. The index has only
 * that of all of them; who starts a container from what several images have in common, or stacks
 * layers one by one, needs this. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/merge.h"
#include "node/node_image-internal.h"

/* Of entry tables, encoded: a few million entries. They take some times as much in memory. */
#define ENTRIES_BYTES_MAX (256ull << 20)

int prefix_require_memory(const struct node_image *node, struct error **error)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < node->artifact.layer_count; i++)
        bytes += node->artifact.layers[i].entries.content_size;
    if (bytes <= ENTRIES_BYTES_MAX) return 0;
    error_set(error, ERROR_UNSUPPORTED,
              "the first %zu layers of image %s have too many files to be merged here",
              node->artifact.layer_count, node->image.name);
    return error_hint(error, "pull the image the ordinary way");
}

static int decode(const struct node_image *node, size_t layer, const struct part_content *content,
                  struct merge_layer *ret, struct entry_table **ret_entries, struct error **error)
{
    const struct chunk_table *table = node->tables[layer];
    if (entry_table_decode(ret_entries, part_content_data(content), part_content_length(content),
                           table->stream_length, error) < 0)
        return error_prefix(error, "index of %s: layer %zu", node->image.name, layer + 1);
    *ret = (struct merge_layer){ .entries = *ret_entries,
                                 .stream_length = table->stream_length,
                                 .stream_digest = table->stream_digest };
    return 0;
}

static int merge(const struct node_image *node, const struct part_content *entries,
                 struct entry_table **tables, struct buffer *ret, struct error **error)
{
    size_t count = node->artifact.layer_count;
    cleanup_free struct merge_layer *layers = calloc(count, sizeof *layers);
    if (!layers) return error_set_memory(error);
    for (size_t i = 0; i < count; i++)
        if (decode(node, i, &entries[i], &layers[i], &tables[i], error) < 0) return -1;
    int result = node->is_difference ? merge_difference(layers, count, ret, error)
                                     : merge_layers(layers, count, ret, error);
    if (result < 0) return error_prefix(error, "index of %s", node->image.name);
    return 0;
}

int prefix_merge(struct loader *loader, const struct part_content *entries, struct error **error)
{
    struct node_image *node = loader->node;
    cleanup_buffer struct buffer made = { 0 };
    cleanup_free struct entry_table **tables =
        calloc(node->artifact.layer_count, sizeof(struct entry_table *));
    if (!tables) return error_set_memory(error);
    int result = merge(node, entries, tables, &made, error);
    for (size_t i = 0; i < node->artifact.layer_count; i++)
        entry_table_free(tables[i]);
    if (result < 0) return -1;
    log_info("merged the first %zu layers of %s%s: %zu bytes of metadata",
             node->artifact.layer_count, node->image.name,
             node->is_difference ? ", for what the last one changes" : "", made.length);
    return part_content_keep(loader, &made, &node->metadata_content, &node->artifact.metadata,
                             error);
}
