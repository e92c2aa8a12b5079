#include "node/give_back.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "node/image_check.h"

/* ---- what there may be ---- */

static bool add_name(struct digest *keys, size_t *count, const char *name)
{
    if (!name) return false;
    digest_of(name, strlen(name), &keys[(*count)++]);
    return true;
}

/* For each count of layers that may have been mounted. */
static bool add_checked_names(const struct node_image *node, struct digest *keys, size_t *count)
{
    size_t layers = node->artifact.layer_count;
    for (size_t shown = 1; shown <= layers; shown++) {
        bool whole = shown == layers && !node->is_prefix;
        cleanup_free char *name = image_check_memory_name(node, whole ? 0 : shown);
        if (!add_name(keys, count, name)) return false;
    }
    return true;
}

struct digest *image_cache_keys(const struct node_image *node, size_t *ret_count)
{
    const struct index_artifact *artifact = &node->artifact;
    size_t count = 0;
    cleanup_free char *name = node_image_memory_name(&node->image);
    struct digest *keys = calloc(3 * artifact->layer_count + 6, sizeof *keys);
    if (!keys || !add_name(keys, &count, name) || !add_checked_names(node, keys, &count)) {
        free(keys);
        return NULL;
    }
    keys[count++] = node->image.digest;
    keys[count++] = node->image.manifest.config.digest;
    keys[count++] = node->index_digest;
    keys[count++] = artifact->metadata.content_digest;
    if (artifact->profile.size > 0) keys[count++] = artifact->profile.content_digest;
    for (size_t i = 0; i < artifact->layer_count; i++) {
        keys[count++] = artifact->layers[i].chunks.content_digest;
        keys[count++] = artifact->layers[i].entries.content_digest;
    }
    *ret_count = count;
    return keys;
}

/* ---- giving it back ---- */

/* What was fetched for a layer's chunks: only its chunk table, which goes with the layer, tells. */
struct windows {
    struct digest layer;
    struct digest *groups; /* NULL: nothing is known of any */
    size_t count;
};

static void list_windows(struct cache *cache, const struct digest *layer, struct windows *ret)
{
    struct chunk_table *table = NULL;
    cleanup_buffer struct buffer encoded = { 0 };
    *ret = (struct windows){ .layer = *layer };
    if (!cache_has_layer(cache, layer) ||
        cache_get_blob(cache, layer, CHUNK_TABLES_LENGTH_MAX, &encoded, NULL) < 0 ||
        chunk_table_decode(&table, encoded.data, encoded.length, NULL) < 0)
        return;
    ret->groups = calloc((size_t)table->group_count + 1, sizeof *ret->groups);
    for (; ret->groups && ret->count < table->group_count; ret->count++)
        ret->groups[ret->count] = table->groups[ret->count].digest;
    chunk_table_free(table);
}

size_t node_give_back(struct cache *cache, struct digest *digests, size_t count)
{
    cleanup_free struct windows *windows = calloc(count + 1, sizeof *windows);
    /* Without memory, windows are left to eviction. */
    for (size_t i = 0; windows && i < count; i++)
        list_windows(cache, &digests[i], &windows[i]);
    size_t left = cache_give_back(cache, digests, count);
    for (size_t i = 0; windows && i < count; i++) {
        if (windows[i].groups && !cache_has_layer(cache, &windows[i].layer))
            cache_give_back(cache, windows[i].groups, windows[i].count);
        free(windows[i].groups);
    }
    return left;
}
