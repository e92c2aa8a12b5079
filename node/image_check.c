#include "node/image_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "index/merge.h"
#include "index/part_decoder.h"
#include "index/tar.h"
#include "node/blob_call.h"

/* Entry tables and metadata, encoded, of an image whose tree is made again: a few million entries.
 * The tables take some times as much in memory while they are merged. */
#define TREE_BYTES_MAX (256ull << 20)
/* One layer's entries in memory. */
#define ENTRIES_MEMORY_MAX (512ull << 20)

/* ---- the image's config ---- */

static int load_config(const struct image_check *check, struct image_config *ret,
                       struct error **error)
{
    const struct image *image = &check->node->image;
    const struct digest *digest = &image->manifest.config.digest;
    cleanup_buffer struct buffer body = { 0 };
    if (cache_get_blob(check->cache, digest, IMAGE_CONFIG_LENGTH_MAX, &body, NULL) < 0) {
        buffer_free(&body);
        if (image->manifest.config.size > IMAGE_CONFIG_LENGTH_MAX)
            return error_set(error, ERROR_UNSUPPORTED, "the image's config is too large");
        if (blob_call(check->client, &image->repository, digest,
                      (size_t)image->manifest.config.size, check->cancel, &body, error) < 0)
            return -1;
        cache_put_blob(check->cache, digest, body.data, body.length, NULL);
    }
    return image_config_parse(ret, body.data, body.length, error);
}

static enum check_result compare_config(const struct node_image *node,
                                        const struct image_config *config, bool *ret_wrong,
                                        struct error **error)
{
    char said[DIGEST_TEXT_SIZE], meant[DIGEST_TEXT_SIZE];
    size_t count = node->artifact.layer_count, first = count;
    bool other_count = node->is_prefix ? config->layer_count < count : config->layer_count != count;
    for (size_t i = count; i-- > 0;) {
        ret_wrong[i] = other_count ||
                       !digest_equal(&config->stream_digests[i], &node->tables[i]->stream_digest);
        if (ret_wrong[i]) first = i;
    }
    if (other_count)
        error_set(error, ERROR_INVALID, "the image's config has %zu layers, the index %zu",
                  config->layer_count, count);
    else if (first < count)
        error_set(error, ERROR_INVALID,
                  "layer %zu is %s by the index, and %s by the image's config", first + 1,
                  digest_format(&node->tables[first]->stream_digest, said),
                  digest_format(&config->stream_digests[first], meant));
    return first < count || other_count ? CHECK_FALSE : CHECK_TRUE;
}

enum check_result image_check_config(const struct image_check *check, bool *ret_wrong,
                                     struct error **error)
{
    struct image_config config = { 0 };
    if (load_config(check, &config, error) < 0) return CHECK_UNKNOWN;
    enum check_result result = compare_config(check->node, &config, ret_wrong, error);
    image_config_free(&config);
    return result;
}

/* ---- a layer ---- */

/* What the tar says is wrong counts only once it is known that these are the layer's bytes. */
struct rebuild {
    const struct image_check *check;
    size_t layer;
    struct entry_table *entries;
    struct tar_reader *tar; /* NULL: it has failed, or is too large */
    bool too_large;
    bool ended;            /* the bytes are right */
    struct error *failure; /* of the tar */
};

static void rebuild_free(struct rebuild *rebuild)
{
    tar_reader_free(rebuild->tar);
    entry_table_free(rebuild->entries);
    error_free(rebuild->failure);
}

static void stop_reading(struct rebuild *rebuild)
{
    tar_reader_free(rebuild->tar);
    entry_table_free(rebuild->entries);
    rebuild->tar = NULL;
    rebuild->entries = NULL;
}

/* layer_seal's read. */
static int read_tar(void *context, const void *data, size_t length, struct error **error)
{
    struct rebuild *rebuild = context;
    (void)error;
    if (!rebuild->tar) return 0;
    if (tar_reader_feed(rebuild->tar, data, length, &rebuild->failure) < 0) {
        stop_reading(rebuild);
    } else if (entry_table_memory(rebuild->entries) > ENTRIES_MEMORY_MAX) {
        rebuild->too_large = true;
        stop_reading(rebuild);
    }
    return 0;
}

/* layer_seal's end. */
static int compare_entries(void *context, struct digest *ret_note, struct error **error)
{
    struct rebuild *rebuild = context;
    const struct image_check *check = rebuild->check;
    const struct index_part *part = &check->node->artifact.layers[rebuild->layer].entries;
    cleanup_buffer struct buffer encoded = { 0 };
    rebuild->ended = true;
    if (rebuild->too_large) return 0;
    if (!rebuild->failure) tar_reader_finish(rebuild->tar, &rebuild->failure);
    if (rebuild->failure) {
        error_move(error, rebuild->failure);
        rebuild->failure = NULL;
        return -1;
    }
    if (entry_table_encode(rebuild->entries, &encoded, error) < 0) return -1;
    digest_of(encoded.data, encoded.length, ret_note);
    if (!digest_equal(ret_note, &part->content_digest))
        return error_set(error, ERROR_INVALID, "the entries of the layer are others");
    /* The tree is made of it later; it can be fetched then, too. */
    cache_put_blob(check->cache, ret_note, encoded.data, encoded.length, NULL);
    return 0;
}

static int seal(const struct image_check *check, struct rebuild *rebuild, struct error **error)
{
    const struct chunk_table *table = check->node->tables[rebuild->layer];
    cleanup_free struct digest *chunks = calloc((size_t)table->chunk_count + 1, sizeof *chunks);
    rebuild->entries = entry_table_new();
    rebuild->tar = rebuild->entries ? tar_reader_new(rebuild->entries) : NULL;
    if (!chunks || !rebuild->tar) return error_set_memory(error);
    for (uint32_t i = 0; i < table->chunk_count; i++)
        chunks[i] = table->chunks[i].digest;
    const struct layer_seal seal = { .chunks = chunks,
                                     .stream = table->stream_digest,
                                     .read = read_tar,
                                     .end = compare_entries,
                                     .context = rebuild,
                                     .cancel = check->cancel };
    uint32_t damaged;
    return layer_cache_seal(layer_device_cache(check->devices[rebuild->layer]), &seal, &damaged,
                            error);
}

enum check_result image_check_layer(const struct image_check *check, size_t layer, bool *ret_wrong,
                                    struct error **error)
{
    struct rebuild rebuild = { .check = check, .layer = layer };
    struct error *reason = NULL;
    int result = seal(check, &rebuild, &reason);
    *ret_wrong = !rebuild.ended;
    rebuild_free(&rebuild);
    if (result == 0) return CHECK_TRUE;
    bool lies = error_kind_of(reason) == ERROR_INVALID;
    error_prefix(&reason, "layer %zu", layer + 1);
    error_move(error, reason);
    return lies ? CHECK_FALSE : CHECK_UNKNOWN;
}

bool image_layer_is_sealed(const struct image_check *check, size_t layer, bool entries)
{
    struct digest note;
    if (!layer_cache_is_sealed(layer_device_cache(check->devices[layer]), &note)) return false;
    return !entries ||
           digest_equal(&note, &check->node->artifact.layers[layer].entries.content_digest);
}

/* ---- the tree ---- */

/* part_write; the memory was reserved. */
static int write_to_memory(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

static int fetch_entries(const struct image_check *check, const struct index_part *part,
                         struct buffer *ret, struct error **error)
{
    cleanup_buffer struct buffer blob = { 0 };
    struct part_decoder *decoder = NULL;
    if (blob_call(check->client, &check->node->image.repository, &part->digest, (size_t)part->size,
                  check->cancel, &blob, error) < 0)
        return -1;
    if (buffer_reserve(ret, part->content_size) < 0) return error_set_memory(error);
    int result = part_decoder_new(&decoder, part, write_to_memory, ret, NULL, error);
    if (result == 0) result = part_decoder_feed(decoder, blob.data, blob.length, error);
    if (result == 0) result = part_decoder_finish(decoder, error);
    part_decoder_free(decoder);
    return result;
}

static int load_entries(const struct image_check *check, size_t layer, struct entry_table **ret,
                        struct error **error)
{
    const struct node_image *node = check->node;
    const struct index_part *part = &node->artifact.layers[layer].entries;
    cleanup_buffer struct buffer content = { 0 };
    if (cache_get_blob(check->cache, &part->content_digest, part->content_size, &content, NULL) <
        0) {
        buffer_free(&content);
        if (fetch_entries(check, part, &content, error) < 0) return -1;
    }
    return entry_table_decode(ret, content.data, content.length, node->tables[layer]->stream_length,
                              error);
}

static int load_layers(const struct image_check *check, struct merge_layer *layers,
                       struct entry_table **tables, struct error **error)
{
    const struct node_image *node = check->node;
    for (size_t i = 0; i < node->artifact.layer_count; i++) {
        if (load_entries(check, i, &tables[i], error) < 0) return -1;
        layers[i] = (struct merge_layer){ .entries = tables[i],
                                          .stream_length = node->tables[i]->stream_length,
                                          .stream_digest = node->tables[i]->stream_digest };
    }
    return 0;
}

/* Who made the index had the same tables, so what cannot be merged is no reason to know nothing. */
static enum check_result compare_tree(const struct node_image *node,
                                      const struct merge_layer *layers, struct error **error)
{
    struct digest digest;
    cleanup_buffer struct buffer merged = { 0 };
    struct error *reason = NULL;
    if (merge_layers(layers, node->artifact.layer_count, &merged, &reason) < 0) {
        bool lies = error_kind_of(reason) == ERROR_INVALID;
        error_move(error, reason);
        return lies ? CHECK_FALSE : CHECK_UNKNOWN;
    }
    digest_of(merged.data, merged.length, &digest);
    if (digest_equal(&digest, &node->artifact.metadata.content_digest)) return CHECK_TRUE;
    error_set(error, ERROR_INVALID, "the metadata shows another tree than the layers have");
    return CHECK_FALSE;
}

static uint64_t tree_bytes(const struct index_artifact *artifact)
{
    uint64_t bytes = artifact->metadata.content_size;
    for (size_t i = 0; i < artifact->layer_count; i++)
        bytes += artifact->layers[i].entries.content_size + artifact->layers[i].entries.size;
    return bytes;
}

/* ERROR_UNSUPPORTED: not here. */
static int require_memory(const struct image_check *check, struct error **error)
{
    bool small = tree_bytes(&check->node->artifact) <= TREE_BYTES_MAX;
    for (size_t i = 0; small && i < check->node->artifact.layer_count; i++)
        small = image_layer_is_sealed(check, i, true);
    if (small) return 0;
    return error_set(error, ERROR_UNSUPPORTED,
                     "the image has too many files for its tree to be made again here");
}

enum check_result image_check_tree(const struct image_check *check, struct error **error)
{
    size_t count = check->node->artifact.layer_count;
    if (require_memory(check, error) < 0) return CHECK_UNKNOWN;
    cleanup_free struct merge_layer *layers = calloc(count + 1, sizeof *layers);
    cleanup_free struct entry_table **tables = calloc(count + 1, sizeof *tables);
    enum check_result result = CHECK_UNKNOWN;
    if (!layers || !tables)
        error_set_memory(error);
    else if (load_layers(check, layers, tables, error) == 0)
        result = compare_tree(check->node, layers, error);
    for (size_t i = 0; tables && i < count; i++)
        entry_table_free(tables[i]);
    return result;
}

/* ---- what was checked before ---- */

char *image_check_memory_name(const struct node_image *node, size_t layers)
{
    char manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE], which[40] = "";
    if (layers > 0) snprintf(which, sizeof which, " first %zu layers", layers);
    return format_text("checked %s %s%s", digest_format(&node->image.digest, manifest),
                       digest_format(&node->index_digest, index), which);
}

static char *memory_name(const struct image_check *check)
{
    const struct node_image *node = check->node;
    return image_check_memory_name(node, node->is_prefix ? node->artifact.layer_count : 0);
}

void image_check_remember(const struct image_check *check)
{
    struct error *error = NULL;
    cleanup_free char *name = memory_name(check);
    if (name && cache_remember(check->cache, name, "{}", 2, &error) == 0) return;
    log_info("%s; the image will be checked again", error ? error_message(error) : "no memory");
    error_free(error);
}

bool image_check_recall(const struct image_check *check)
{
    cleanup_free char *name = memory_name(check);
    cleanup_buffer struct buffer text = { 0 };
    return name && cache_recall(check->cache, name, 16, &text, NULL) == 0;
}
