#include "index/artifact.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "index/image_manifest.h"
#include "index/profile.h"

#define ANNOTATION_LAYER    "vnd.sluice.layer"
#define ANNOTATION_CONTENT  "vnd.sluice.content.digest"
#define ANNOTATION_SIZE     "vnd.sluice.content.size"
#define ANNOTATION_REVISION "vnd.sluice.index.revision"

/* Level 9 is within a few percent of the best and takes a tenth of its time. */
#define PART_ZSTD_LEVEL 9

/* ---- encoding ---- */

static json_t *descriptor_json(const char *media_type, const struct digest *digest, uint64_t size)
{
    char text[DIGEST_TEXT_SIZE];
    return json_pack("{s:s, s:s, s:I}", "mediaType", media_type, "digest",
                     digest_format(digest, text), "size", (json_int_t)size);
}

static json_t *part_json(const char *media_type, const struct index_part *part,
                         const struct digest *layer)
{
    char content[DIGEST_TEXT_SIZE], layer_text[DIGEST_TEXT_SIZE], size[24];
    snprintf(size, sizeof size, "%llu", (unsigned long long)part->content_size);
    json_t *descriptor = descriptor_json(media_type, &part->digest, part->size);
    json_t *annotations = json_object();
    if (layer)
        json_object_set_new(annotations, ANNOTATION_LAYER,
                            json_string(digest_format(layer, layer_text)));
    json_object_set_new(annotations, ANNOTATION_CONTENT,
                        json_string(digest_format(&part->content_digest, content)));
    json_object_set_new(annotations, ANNOTATION_SIZE, json_string(size));
    json_object_set_new(descriptor, "annotations", annotations);
    return descriptor;
}

/* Registries show a manifest's annotations in their lists of referrers. */
static void set_revision(json_t *object, uint64_t revision)
{
    char text[24];
    if (revision == 0) return;
    snprintf(text, sizeof text, "%llu", (unsigned long long)revision);
    json_object_set_new(object, "annotations", json_pack("{s:s}", ANNOTATION_REVISION, text));
}

static int dump_json(const json_t *root, struct buffer *ret, struct error **error)
{
    cleanup_free char *text = json_dumps(root, JSON_COMPACT);
    if (!text || buffer_append(ret, text, strlen(text)) < 0) return error_set_memory(error);
    return 0;
}

int index_artifact_encode(const struct index_artifact *artifact, struct buffer *ret,
                          struct error **error)
{
    struct digest empty;
    digest_of(EMPTY_CONFIG, strlen(EMPTY_CONFIG), &empty);
    json_t *parts = json_array();
    json_array_append_new(parts, part_json(MEDIA_TYPE_METADATA, &artifact->metadata, NULL));
    for (size_t i = 0; i < artifact->layer_count; i++) {
        const struct index_layer *layer = &artifact->layers[i];
        json_array_append_new(parts,
                              part_json(MEDIA_TYPE_CHUNKS, &layer->chunks, &layer->blob_digest));
        json_array_append_new(parts,
                              part_json(MEDIA_TYPE_ENTRIES, &layer->entries, &layer->blob_digest));
        if (layer->windows.size)
            json_array_append_new(
                parts, part_json(MEDIA_TYPE_WINDOWS, &layer->windows, &layer->blob_digest));
    }
    if (artifact->profile.size)
        json_array_append_new(parts, part_json(MEDIA_TYPE_PROFILE, &artifact->profile, NULL));
    cleanup_json json_t *root = json_pack(
        "{s:i, s:s, s:s, s:o, s:o, s:o}", "schemaVersion", 2, "mediaType", MEDIA_TYPE_OCI_MANIFEST,
        "artifactType", ARTIFACT_TYPE_INDEX, "config",
        descriptor_json(MEDIA_TYPE_EMPTY, &empty, strlen(EMPTY_CONFIG)), "layers", parts, "subject",
        descriptor_json(artifact->subject_media_type, &artifact->subject, artifact->subject_size));
    if (!root) return error_set_memory(error);
    set_revision(root, artifact->revision);
    return dump_json(root, ret, error);
}

/* ---- decoding ---- */

static int parse_decimal(const char *text, uint64_t limit, uint64_t *ret)
{
    uint64_t value = 0;
    if (!*text || (text[0] == '0' && text[1])) return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return -1;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > limit) return -1;
    }
    *ret = value;
    return 0;
}

/* Of a manifest or of a descriptor in a list. What is no revision counts as none. */
static uint64_t revision_of(const json_t *object)
{
    uint64_t revision;
    const char *text =
        json_optional_text(json_object_get(object, "annotations"), ANNOTATION_REVISION);
    return text && parse_decimal(text, INDEX_REVISION_MAX, &revision) == 0 ? revision : 0;
}

static int parse_part(struct index_part *ret, const json_t *descriptor, struct error **error)
{
    const json_t *annotations = json_object_get(descriptor, "annotations");
    if (json_field_digest(descriptor, "digest", &ret->digest, error) < 0 ||
        json_field_size(descriptor, "size", &ret->size, error) < 0 ||
        json_field_digest(annotations, ANNOTATION_CONTENT, &ret->content_digest, error) < 0)
        return -1;
    const char *size = json_field_text(annotations, ANNOTATION_SIZE, error);
    if (!size) return -1;
    if (parse_decimal(size, PART_LENGTH_MAX, &ret->content_size) < 0)
        return error_set(error, ERROR_INVALID, "'%s' is not a size of at most 1 GiB",
                         ANNOTATION_SIZE);
    if (ret->size == 0 || ret->size > PART_LENGTH_MAX || ret->content_size == 0)
        return error_set(error, ERROR_INVALID, "a part has an impossible size");
    return 0;
}

/* The parts stand in one order: metadata, then for each layer chunks, entries and perhaps windows,
 * then perhaps a profile, then what later versions may add. */
struct part_reader {
    const json_t *parts;
    size_t next;
};

static bool next_is(const struct part_reader *reader, const char *media_type)
{
    const json_t *descriptor = json_array_get(reader->parts, reader->next);
    const char *found = json_optional_text(descriptor, "mediaType");
    return found && strcmp(found, media_type) == 0;
}

/* 1: read, 0: the next part is of another type or there is none, -1: error. */
static int take_part(struct part_reader *reader, const char *media_type, struct index_part *ret,
                     struct digest *ret_layer, struct error **error)
{
    const json_t *descriptor = json_array_get(reader->parts, reader->next);
    if (!next_is(reader, media_type)) return 0;
    if (parse_part(ret, descriptor, error) < 0 ||
        (ret_layer && json_field_digest(json_object_get(descriptor, "annotations"),
                                        ANNOTATION_LAYER, ret_layer, error) < 0))
        return error_prefix(error, "part %zu", reader->next + 1);
    reader->next++;
    return 1;
}

static int require_part(struct part_reader *reader, const char *media_type, struct index_part *ret,
                        struct digest *ret_layer, struct error **error)
{
    int result = take_part(reader, media_type, ret, ret_layer, error);
    if (result == 0)
        return error_set(error, ERROR_INVALID, "part %zu is not of type %s", reader->next + 1,
                         media_type);
    return result < 0 ? -1 : 0;
}

static int take_layer(struct part_reader *reader, struct index_layer *ret, struct error **error)
{
    struct digest entries_of, windows_of;
    if (require_part(reader, MEDIA_TYPE_CHUNKS, &ret->chunks, &ret->blob_digest, error) < 0 ||
        require_part(reader, MEDIA_TYPE_ENTRIES, &ret->entries, &entries_of, error) < 0)
        return -1;
    int windows = take_part(reader, MEDIA_TYPE_WINDOWS, &ret->windows, &windows_of, error);
    if (windows < 0) return -1;
    if (!digest_equal(&entries_of, &ret->blob_digest) ||
        (windows && !digest_equal(&windows_of, &ret->blob_digest)))
        return error_set(error, ERROR_INVALID, "parts of two layers are mixed");
    return 0;
}

/* Behind the layers stands what a mount can do without. Parts that this version does not know are
 * left alone; those that it knows have their place further up. */
static int take_extras(struct part_reader *reader, struct index_artifact *ret, struct error **error)
{
    if (take_part(reader, MEDIA_TYPE_PROFILE, &ret->profile, NULL, error) < 0) return -1;
    if (ret->profile.content_size > PROFILE_LENGTH_MAX || ret->profile.size > PROFILE_LENGTH_MAX)
        return error_set(error, ERROR_INVALID, "the profile is larger than %u MiB",
                         PROFILE_LENGTH_MAX >> 20);
    for (; reader->next < json_array_size(reader->parts); reader->next++)
        if (next_is(reader, MEDIA_TYPE_METADATA) || next_is(reader, MEDIA_TYPE_CHUNKS) ||
            next_is(reader, MEDIA_TYPE_ENTRIES) || next_is(reader, MEDIA_TYPE_WINDOWS) ||
            next_is(reader, MEDIA_TYPE_PROFILE))
            return error_set(error, ERROR_INVALID, "part %zu is out of order", reader->next + 1);
    return 0;
}

static int decode_parts(struct index_artifact *ret, const json_t *parts, struct error **error)
{
    struct part_reader reader = { parts, 0 };
    uint64_t tables_left = CHUNK_TABLES_LENGTH_MAX;
    if (require_part(&reader, MEDIA_TYPE_METADATA, &ret->metadata, NULL, error) < 0) return -1;
    ret->layers = calloc(IMAGE_LAYERS_MAX, sizeof *ret->layers);
    if (!ret->layers) return error_set_memory(error);
    while (next_is(&reader, MEDIA_TYPE_CHUNKS)) {
        if (ret->layer_count == IMAGE_LAYERS_MAX)
            return error_set(error, ERROR_INVALID, "more than %d layers", IMAGE_LAYERS_MAX);
        struct index_layer *layer = &ret->layers[ret->layer_count];
        if (take_layer(&reader, layer, error) < 0) return -1;
        if (layer->chunks.content_size > tables_left)
            return error_set(error, ERROR_INVALID, "the chunk tables are larger than %llu MiB",
                             CHUNK_TABLES_LENGTH_MAX >> 20);
        tables_left -= layer->chunks.content_size;
        ret->layer_count++;
    }
    if (ret->layer_count == 0) return error_set(error, ERROR_INVALID, "no layers");
    return take_extras(&reader, ret, error);
}

static int decode_subject(struct index_artifact *ret, const json_t *subject, struct error **error)
{
    const char *media_type = json_field_text(subject, "mediaType", error);
    if (!media_type || json_field_digest(subject, "digest", &ret->subject, error) < 0 ||
        json_field_size(subject, "size", &ret->subject_size, error) < 0)
        return error_prefix(error, "subject");
    ret->subject_media_type = strdup(media_type);
    return ret->subject_media_type ? 0 : error_set_memory(error);
}

int index_artifact_decode(struct index_artifact *ret, const void *data, size_t length,
                          struct error **error)
{
    *ret = (struct index_artifact){ 0 };
    cleanup_json json_t *root = json_read_object(data, length, "index manifest", error);
    if (!root) return -1;
    const char *type = json_optional_text(root, "artifactType");
    const json_t *parts = NULL;
    int result = -1;
    if (!type || strcmp(type, ARTIFACT_TYPE_INDEX) != 0)
        error_set(error, ERROR_INVALID, "it has type '%.100s' and not '%s'", type ? type : "none",
                  ARTIFACT_TYPE_INDEX);
    else if ((parts = json_field_array(root, "layers", error)) &&
             decode_subject(ret, json_object_get(root, "subject"), error) == 0)
        result = decode_parts(ret, parts, error);
    ret->revision = revision_of(root);
    if (result < 0) {
        index_artifact_free(ret);
        error_prefix(error, "index manifest");
    }
    return result;
}

void index_artifact_free(struct index_artifact *artifact)
{
    free(artifact->subject_media_type);
    free(artifact->layers);
    *artifact = (struct index_artifact){ 0 };
}

/* ---- parts ---- */

int index_part_compress(const void *data, size_t length, struct buffer *ret, struct error **error)
{
    size_t bound = ZSTD_compressBound(length);
    if (buffer_reserve(ret, bound) < 0) return error_set_memory(error);
    size_t written = ZSTD_compress(ret->data + ret->length, bound, data, length, PART_ZSTD_LEVEL);
    if (ZSTD_isError(written)) return error_set_memory(error);
    ret->length += written;
    return 0;
}

/* ---- referrers ---- */

static bool is_index_descriptor(const json_t *descriptor)
{
    const char *type = json_optional_text(descriptor, "artifactType");
    return type && strcmp(type, ARTIFACT_TYPE_INDEX) == 0;
}

bool index_referrer_find(const void *data, size_t length, struct digest *ret)
{
    if (length == 0) return false;
    cleanup_json json_t *root = json_read_object(data, length, "referrers", NULL);
    const json_t *manifests = root ? json_object_get(root, "manifests") : NULL;
    bool found = false;
    uint64_t newest = 0;
    /* Of equal ones the last: we append where the list is kept by the fallback tag. */
    for (size_t i = json_array_size(manifests); i-- > 0;) {
        const json_t *descriptor = json_array_get(manifests, i);
        struct digest digest;
        if (!is_index_descriptor(descriptor) || (found && revision_of(descriptor) <= newest) ||
            json_field_digest(descriptor, "digest", &digest, NULL) < 0)
            continue;
        *ret = digest;
        newest = revision_of(descriptor);
        found = true;
    }
    return found;
}

int index_referrer_add(const void *data, size_t length, const struct index_referrer *artifact,
                       struct buffer *ret, struct error **error)
{
    cleanup_json json_t *root = NULL;
    if (length)
        root = json_read_object(data, length, "referrers", error);
    else
        root = json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType", MEDIA_TYPE_OCI_INDEX,
                         "manifests");
    if (!root) return length ? -1 : error_set_memory(error);
    json_t *manifests = json_object_get(root, "manifests");
    if (!json_is_array(manifests))
        return error_set(error, ERROR_INVALID, "referrers: 'manifests' is missing");
    for (size_t i = json_array_size(manifests); i-- > 0;)
        if (is_index_descriptor(json_array_get(manifests, i))) json_array_remove(manifests, i);
    json_t *descriptor =
        descriptor_json(MEDIA_TYPE_OCI_MANIFEST, &artifact->digest, artifact->size);
    json_object_set_new(descriptor, "artifactType", json_string(ARTIFACT_TYPE_INDEX));
    set_revision(descriptor, artifact->revision);
    json_array_append_new(manifests, descriptor);
    return dump_json(root, ret, error);
}
