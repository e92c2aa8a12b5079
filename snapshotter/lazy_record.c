#include "snapshotter/lazy_record.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "node/node_client.h"

#define FILE_LENGTH_MAX (1u << 20)

/* https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid */
void lazy_record_chain(struct lazy_record *record, const struct digest *streams)
{
    char text[2 * DIGEST_TEXT_SIZE];
    for (uint32_t i = 0; i < record->layer_count; i++) {
        if (i == 0) {
            record->layers[i].chain = streams[i];
            continue;
        }
        digest_format(&record->layers[i - 1].chain, text);
        size_t length = strlen(text);
        text[length] = ' ';
        digest_format(&streams[i], text + length + 1);
        digest_of(text, strlen(text), &record->layers[i].chain);
    }
}

int lazy_record_write(const struct lazy_record *record, const char *path, struct error **error)
{
    char index[DIGEST_TEXT_SIZE], blob[DIGEST_TEXT_SIZE], chain[DIGEST_TEXT_SIZE];
    cleanup_json json_t *root = json_object();
    json_t *layers = json_array();
    for (uint32_t i = 0; i < record->layer_count; i++)
        json_array_append_new(
            layers, json_pack("{s:s, s:s}", "blob", digest_format(&record->layers[i].blob, blob),
                              "chain", digest_format(&record->layers[i].chain, chain)));
    json_object_set_new(root, "name", json_any_text(record->name));
    json_object_set_new(root, "reference", json_string(record->reference));
    json_object_set_new(root, "index", json_string(digest_format(&record->index, index)));
    json_object_set_new(root, "trust", json_string(index_trust_name(record->trust)));
    json_object_set_new(root, "layers", layers);
    json_object_set_new(root, "cache_keys",
                        json_digests(record->cache_keys, record->cache_key_count));
    cleanup_free char *text = json_dumps(root, JSON_INDENT(2));
    if (!text || json_array_size(layers) != record->layer_count ||
        !json_object_get(root, "cache_keys"))
        return error_set_memory(error);
    return file_write_atomic(path, text, strlen(text), 0600, error);
}

static int read_layers(struct lazy_record *record, const json_t *root, struct error **error)
{
    const json_t *layers = json_field_array(root, "layers", error);
    if (!layers) return -1;
    size_t count = json_array_size(layers), i;
    if (count == 0 || count > LAZY_LAYERS_MAX)
        return error_set(error, ERROR_INVALID, "%zu layers", count);
    record->layers = calloc(count, sizeof *record->layers);
    if (!record->layers) return error_set_memory(error);
    record->layer_count = (uint32_t)count;
    const json_t *layer;
    json_array_foreach(layers, i, layer)
    {
        if (json_field_digest(layer, "blob", &record->layers[i].blob, error) < 0 ||
            json_field_digest(layer, "chain", &record->layers[i].chain, error) < 0)
            return -1;
    }
    return 0;
}

static int read_fields(struct lazy_record *record, const json_t *root, struct error **error)
{
    const char *name = json_field_text(root, "name", error);
    const char *reference = name ? json_field_text(root, "reference", error) : NULL;
    const char *trust = reference ? json_field_text(root, "trust", error) : NULL;
    if (!trust || index_trust_parse(&record->trust, trust, error) < 0 ||
        json_field_digest(root, "index", &record->index, error) < 0)
        return -1;
    record->name = strdup(name);
    record->reference = strdup(reference);
    if (!record->name || !record->reference) return error_set_memory(error);
    if (read_layers(record, root, error) < 0 ||
        json_field_digests(root, "cache_keys", NODE_CACHE_KEYS_MAX, &record->cache_keys,
                           &record->cache_key_count, error) < 0)
        return -1;
    digests_sort(record->cache_keys, record->cache_key_count);
    return 0;
}

int lazy_record_read(struct lazy_record *ret, const char *path, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    *ret = (struct lazy_record){ 0 };
    if (file_read(path, FILE_LENGTH_MAX, &text, error) < 0) return -1;
    cleanup_json json_t *root = json_read_object(text.data, text.length, "image.json", error);
    if (root && read_fields(ret, root, error) == 0) return 0;
    lazy_record_free(ret);
    return error_prefix(error, "'%s'", path);
}

void lazy_record_free(struct lazy_record *record)
{
    free(record->name);
    free(record->reference);
    free(record->layers);
    free(record->cache_keys);
    *record = (struct lazy_record){ 0 };
}
