#include "node/node_protocol-internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"

/* ---- fields ---- */

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

/* NULL where the field is null. */
static int optional_text(const json_t *object, const char *field, const char **ret,
                         struct error **error)
{
    const json_t *value = json_object_get(object, field);
    *ret = json_string_value(value);
    if (*ret || json_is_null(value)) return 0;
    return error_set(error, ERROR_INVALID, "'%s' is neither text nor null", field);
}

static bool is_true(const json_t *object, const char *field)
{
    return json_is_true(json_object_get(object, field));
}

/* ---- start ---- */

json_t *node_start_encode(const struct node_options *options, struct error **error)
{
    const struct node_cache_limits *limits = &options->cache_limits;
    json_t *root = json_pack(
        "{s:s, s:o*, s:I, s:b, s:I, s:b, s:o*, s:I, s:i, s:i}", "command", NODE_START, "cache",
        json_string(options->cache), "cache_size", (json_int_t)limits->size, "reserve_given",
        (int)limits->reserve_given, "reserve", (json_int_t)limits->reserve, "plain_http",
        (int)options->plain_http, "hosts_directory", text_or_null(options->hosts_directory),
        "read_timeout_seconds", (json_int_t)options->read_timeout_seconds, "log_level",
        (int)log_get_level(), "log_format", (int)log_get_format());
    if (!root) error_set(error, ERROR_INVALID, "the node's options cannot be written as JSON");
    return root;
}

/* What the server does for each image is one line of who has started it; more is for who looks for
 * a fault. */
static int take_log(const json_t *command, struct error **error)
{
    uint64_t level, format;
    if (json_field_size(command, "log_level", &level, error) < 0 ||
        json_field_size(command, "log_format", &format, error) < 0)
        return -1;
    if (level > LOG_DEBUG || format > LOG_FORMAT_JOURNAL)
        return error_set(error, ERROR_INVALID, "there is no such log");
    log_set_level(level == LOG_INFO ? LOG_WARNING : (enum log_level)level);
    log_set_format((enum log_format)format);
    return 0;
}

int node_start_decode(const json_t *command, struct node_options *ret, struct error **error)
{
    uint64_t seconds;
    *ret = (struct node_options){ .plain_http = is_true(command, "plain_http") };
    ret->cache_limits.reserve_given = is_true(command, "reserve_given");
    ret->cache = json_field_text(command, "cache", error);
    if (!ret->cache || json_field_size(command, "cache_size", &ret->cache_limits.size, error) < 0 ||
        json_field_size(command, "reserve", &ret->cache_limits.reserve, error) < 0 ||
        optional_text(command, "hosts_directory", &ret->hosts_directory, error) < 0 ||
        json_field_size(command, "read_timeout_seconds", &seconds, error) < 0 ||
        take_log(command, error) < 0)
        return -1;
    if (seconds > 3600) return error_set(error, ERROR_INVALID, "a timeout of more than an hour");
    ret->read_timeout_seconds = (unsigned)seconds;
    return 0;
}

/* ---- open ---- */

json_t *node_open_encode(const struct node_image_request *request, struct error **error)
{
    const struct mounted_image_options *image = &request->image;
    char platform[PLATFORM_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    json_t *root = json_pack(
        "{s:s, s:o*, s:o*, s:o*, s:s, s:o*, s:s, s:s, s:s, s:b, s:b, s:b, s:I, s:I, s:I}",
        "command", NODE_OPEN, "reference", json_string(image->reference), "platform",
        text_or_null(image->platform ? platform_format(image->platform, platform) : NULL), "index",
        text_or_null(image->pinned_index ? digest_format(image->pinned_index, index) : NULL),
        "index_trust", index_trust_name(image->pinned_trust), "mountpoint",
        text_or_null(image->mountpoint), "least_trust", index_trust_name(image->least_trust),
        "front", front_kind_name(image->front), "fill", fill_mode_name(image->fill), "no_profile",
        (int)image->no_profile, "difference", (int)image->difference, "force", (int)image->force,
        "prefetch_limit", (json_int_t)image->prefetch_limit, "fill_rate",
        (json_int_t)image->fill_rate, "layers", (json_int_t)image->layers);
    if (root && json_object_get(root, "reference") && json_object_get(root, "mountpoint"))
        return root;
    json_decref(root);
    error_set(error, ERROR_INVALID, "'%s' cannot be written as JSON", image->reference);
    return NULL;
}

static int take_platform(const json_t *command, struct node_open *ret, struct error **error)
{
    const char *text;
    if (optional_text(command, "platform", &text, error) < 0) return -1;
    if (!text) return 0;
    ret->options.platform = &ret->platform;
    return platform_parse(&ret->platform, text, error);
}

static int take_index(const json_t *command, struct node_open *ret, struct error **error)
{
    const char *text;
    if (optional_text(command, "index", &text, error) < 0) return -1;
    if (!text) return 0;
    ret->options.pinned_index = &ret->index;
    return digest_parse(&ret->index, text, error);
}

/* What is said by a word. */
static int take_kinds(const json_t *command, struct mounted_image_options *ret,
                      struct error **error)
{
    const char *trust = json_field_text(command, "index_trust", error);
    const char *least = trust ? json_field_text(command, "least_trust", error) : NULL;
    const char *front = least ? json_field_text(command, "front", error) : NULL;
    const char *fill = front ? json_field_text(command, "fill", error) : NULL;
    return !fill || index_trust_parse(&ret->pinned_trust, trust, error) < 0 ||
                   index_trust_parse(&ret->least_trust, least, error) < 0 ||
                   front_parse(&ret->front, front, error) < 0 ||
                   fill_mode_parse(&ret->fill, fill, error) < 0
               ? -1
               : 0;
}

/* ---- what lasts ---- */

json_t *node_resumed_encode(const struct front_resumed *resumed)
{
    char text[FUSE_NEGOTIATED_TEXT_SIZE];
    if (resumed->has_negotiated) fuse_negotiated_format(&resumed->negotiated, text);
    return json_pack("{s:b, s:b, s:b, s:o, s:s, s:s}", "by_kernel", (int)resumed->by_kernel,
                     "connection", (int)(resumed->connection >= 0), "end", (int)(resumed->end >= 0),
                     "negotiated", text_or_null(resumed->has_negotiated ? text : NULL), "files",
                     resumed->files, "reason", resumed->reason);
}

int node_resumed_decode(const json_t *object, struct front_resumed *ret, struct error **error)
{
    const char *negotiated;
    *ret = (struct front_resumed){ .by_kernel = is_true(object, "by_kernel"),
                                   .connection = is_true(object, "connection") ? 0 : -1,
                                   .end = is_true(object, "end") ? 0 : -1 };
    ret->files = json_field_text(object, "files", error);
    ret->reason = ret->files ? json_field_text(object, "reason", error) : NULL;
    if (!ret->reason || optional_text(object, "negotiated", &negotiated, error) < 0) return -1;
    ret->has_negotiated = negotiated != NULL;
    if (negotiated && fuse_negotiated_parse(&ret->negotiated, negotiated, error) < 0) return -1;
    /* Every connection has been negotiated, and every tree has what tells its end. */
    if (ret->has_negotiated == (ret->connection >= 0) && ret->by_kernel == (ret->end >= 0) &&
        (ret->by_kernel || ret->has_negotiated))
        return 0;
    return error_set(error, ERROR_INVALID, "what is resumed is not complete");
}

static int take_lasting(const json_t *command, struct node_open *ret, struct error **error)
{
    const json_t *resumed = json_object_get(command, "resumed");
    ret->is_resumed = resumed != NULL;
    if (json_field_size(command, "connection", &ret->connection, error) < 0) return -1;
    return resumed ? node_resumed_decode(resumed, &ret->resumed, error) : 0;
}

int node_open_decode(const json_t *command, struct node_open *ret, struct error **error)
{
    uint64_t layers;
    struct mounted_image_options *options = &ret->options;
    *ret = (struct node_open){ .options = { .no_profile = is_true(command, "no_profile"),
                                            .difference = is_true(command, "difference"),
                                            .force = is_true(command, "force") } };
    options->reference = json_field_text(command, "reference", error);
    if (!options->reference ||
        optional_text(command, "mountpoint", &options->mountpoint, error) < 0 ||
        json_field_size(command, "id", &ret->number, error) < 0 ||
        json_field_size(command, "prefetch_limit", &options->prefetch_limit, error) < 0 ||
        json_field_size(command, "fill_rate", &options->fill_rate, error) < 0 ||
        json_field_size(command, "layers", &layers, error) < 0 ||
        take_platform(command, ret, error) < 0 || take_index(command, ret, error) < 0)
        return -1;
    if (layers > UINT32_MAX) return error_set(error, ERROR_INVALID, "too many layers");
    options->layers = (uint32_t)layers;
    if (take_lasting(command, ret, error) < 0) return -1;
    return take_kinds(command, options, error);
}

/* ---- the answer ---- */

/* What answers of earlier versions, which the holder may have, do not say. */
static int take_blob(const json_t *layer, struct node_layer_answer *ret, struct error **error)
{
    static const enum layer_kind kinds[] = { LAYER_TAR, LAYER_GZIP, LAYER_ZSTD };
    const char *kind = json_optional_text(layer, "kind");
    if (!kind) return 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kind, layer_kind_name(kinds[i])) == 0) ret->kind = kinds[i];
    return json_field_size(layer, "blob_bytes", &ret->blob_length, error);
}

static int take_layers(const json_t *root, struct node_image_answer *ret, struct error **error)
{
    const json_t *layers = json_field_array(root, "layers", error);
    if (!layers) return -1;
    ret->layers = calloc(json_array_size(layers) + 1, sizeof *ret->layers);
    if (!ret->layers) return error_set_memory(error);
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *layer = json_array_get(layers, i);
        if (json_field_digest(layer, "digest", &ret->layers[i].blob, error) < 0 ||
            json_field_digest(layer, "stream_digest", &ret->layers[i].stream, error) < 0 ||
            json_field_size(layer, "stream_bytes", &ret->layers[i].stream_length, error) < 0 ||
            take_blob(layer, &ret->layers[i], error) < 0)
            return -1;
        ret->layer_count++;
    }
    return 0;
}

static int take_answer(const json_t *root, struct node_image_answer *ret, struct error **error)
{
    const char *trust = json_field_text(root, "trust", error), *front, *reason;
    if (!trust || index_trust_parse(&ret->trust, trust, error) < 0 ||
        json_field_digest(root, "manifest_digest", &ret->manifest, error) < 0 ||
        json_field_digest(root, "index_digest", &ret->index, error) < 0 ||
        json_field_size(root, "entries", &ret->entries, error) < 0 ||
        json_field_size(root, "image_bytes", &ret->image_bytes, error) < 0 ||
        optional_text(root, "front", &front, error) < 0 ||
        optional_text(root, "front_reason", &reason, error) < 0 ||
        take_layers(root, ret, error) < 0 ||
        json_field_digests(root, "cache_keys", NODE_CACHE_KEYS_MAX, &ret->cache_keys,
                           &ret->cache_key_count, error) < 0)
        return -1;
    ret->front = strdup(front ? front : "");
    ret->front_reason = strdup(reason ? reason : "");
    return ret->front && ret->front_reason ? 0 : error_set_memory(error);
}

int node_answer_decode(const char *text, struct node_image_answer *ret, struct error **error)
{
    *ret = (struct node_image_answer){ 0 };
    cleanup_json json_t *root = json_read_object(text, strlen(text), "an image's answer", error);
    if (root && take_answer(root, ret, error) == 0) return 0;
    node_image_answer_free(ret);
    return -1;
}

void node_image_answer_free(struct node_image_answer *answer)
{
    free(answer->layers);
    free(answer->cache_keys);
    free(answer->front);
    free(answer->front_reason);
    *answer = (struct node_image_answer){ 0 };
}
