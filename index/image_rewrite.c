#include "index/image_rewrite.h"

#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "index/image_manifest.h"

static int write_json(const json_t *root, struct buffer *ret, struct error **error)
{
    cleanup_free char *text = json_dumps(root, JSON_COMPACT);
    if (!text || buffer_append(ret, text, strlen(text)) < 0) return error_set_memory(error);
    return 0;
}

/* ---- the config ---- */

static json_t *stream_digests_json(const struct rewritten_layer *layers, size_t count)
{
    char text[DIGEST_TEXT_SIZE];
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array,
                                  json_string(digest_format(&layers[i].stream_digest, text))) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

int image_config_rewrite(const void *config, size_t length, const struct rewritten_layer *layers,
                         size_t count, struct buffer *ret, struct error **error)
{
    cleanup_json json_t *root = json_read_object(config, length, "image config", error);
    if (!root) return -1;
    cleanup_json json_t *wanted = stream_digests_json(layers, count);
    if (!wanted) return error_set_memory(error);
    json_t *rootfs = json_object_get(root, "rootfs");
    const json_t *found = json_object_get(rootfs, "diff_ids");
    if (json_array_size(found) != count)
        return error_set(error, ERROR_INVALID, "the image's config names %zu layers and not %zu",
                         json_array_size(found), count);
    if (json_equal(found, wanted))
        return buffer_append(ret, config, length) < 0 ? error_set_memory(error) : 0;
    if (json_object_set(rootfs, "diff_ids", wanted) < 0) return error_set_memory(error);
    return write_json(root, ret, error);
}

/* ---- the manifest ---- */

static json_t *layers_json(const struct rewritten_layer *layers, size_t count)
{
    char text[DIGEST_TEXT_SIZE];
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++) {
        json_t *layer = json_pack("{s:s, s:s, s:I}", "mediaType", MEDIA_TYPE_LAYER_ZSTD, "digest",
                                  digest_format(&layers[i].blob_digest, text), "size",
                                  (json_int_t)layers[i].blob_length);
        if (json_array_append_new(array, layer) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int set_texts(json_t *root, const struct digest *config, uint64_t config_length)
{
    char text[DIGEST_TEXT_SIZE];
    json_t *descriptor = json_pack("{s:s, s:s, s:I}", "mediaType", MEDIA_TYPE_OCI_CONFIG, "digest",
                                   digest_format(config, text), "size", (json_int_t)config_length);
    if (json_object_set_new(root, "config", descriptor) < 0) return -1;
    return json_object_set_new(root, "mediaType", json_string(MEDIA_TYPE_OCI_MANIFEST));
}

int image_manifest_rewrite(const void *manifest, size_t length, const struct digest *config,
                           uint64_t config_length, const struct rewritten_layer *layers,
                           size_t count, struct buffer *ret, struct error **error)
{
    cleanup_json json_t *root = json_read_object(manifest, length, "image manifest", error);
    if (!root) return -1;
    if (json_object_set_new(root, "layers", layers_json(layers, count)) < 0 ||
        set_texts(root, config, config_length) < 0)
        return error_set_memory(error);
    json_t *annotations = json_object_get(root, "annotations");
    if (json_is_object(annotations)) json_object_del(annotations, ANNOTATION_INDEX);
    return write_json(root, ret, error);
}
