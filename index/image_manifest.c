#include "index/image_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/json.h"

static int parse_descriptor(struct descriptor *ret, const json_t *object, struct error **error)
{
    const char *media_type = json_field_text(object, "mediaType", error);
    if (!media_type || json_field_digest(object, "digest", &ret->digest, error) < 0 ||
        json_field_size(object, "size", &ret->size, error) < 0)
        return -1;
    ret->media_type = strdup(media_type);
    return ret->media_type ? 0 : error_set_memory(error);
}

/* Layers are told apart by their content, but what is encrypted or is no tar must not be guessed
 * at. */
static bool is_layer_media_type(const char *media_type)
{
    static const char *const known[] = {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(media_type, known[i]) == 0) return true;
    return false;
}

static int parse_layers(struct image_manifest *ret, const json_t *layers, struct error **error)
{
    size_t count = json_array_size(layers);
    if (count == 0 || count > IMAGE_LAYERS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "it has %zu layers; 1 to %d are supported",
                         count, IMAGE_LAYERS_MAX);
    ret->layers = calloc(count, sizeof *ret->layers);
    if (!ret->layers) return error_set_memory(error);
    for (size_t i = 0; i < count; i++) {
        struct descriptor *layer = &ret->layers[i];
        ret->layer_count = i + 1;
        if (parse_descriptor(layer, json_array_get(layers, i), error) < 0)
            return error_prefix(error, "layer %zu", i + 1);
        if (!is_layer_media_type(layer->media_type))
            return error_set(error, ERROR_UNSUPPORTED,
                             "layer %zu has media type '%.100s', which is no container layer",
                             i + 1, layer->media_type);
    }
    return 0;
}

static int parse_index_name(struct image_manifest *ret, const json_t *annotations,
                            struct error **error)
{
    ret->names_index = json_object_get(annotations, ANNOTATION_INDEX);
    if (!ret->names_index) return 0;
    return json_field_digest(annotations, ANNOTATION_INDEX, &ret->index, error);
}

int image_manifest_parse(struct image_manifest *ret, const void *data, size_t length,
                         struct error **error)
{
    *ret = (struct image_manifest){ 0 };
    cleanup_json json_t *root = json_read_object(data, length, "image manifest", error);
    if (!root) return -1;
    const json_t *layers;
    int result = -1;
    if (json_integer_value(json_object_get(root, "schemaVersion")) != 2)
        error_set(error, ERROR_UNSUPPORTED,
                  "image manifest is not of schema version 2; push the image again with a current "
                  "tool");
    else if (parse_descriptor(&ret->config, json_object_get(root, "config"), error) < 0)
        error_prefix(error, "image manifest: config");
    else if (!(layers = json_field_array(root, "layers", error)) ||
             parse_layers(ret, layers, error) < 0 ||
             parse_index_name(ret, json_object_get(root, "annotations"), error) < 0)
        error_prefix(error, "image manifest");
    else
        result = 0;
    if (result < 0) image_manifest_free(ret);
    return result;
}

void image_manifest_free(struct image_manifest *manifest)
{
    free(manifest->config.media_type);
    for (size_t i = 0; i < manifest->layer_count; i++)
        free(manifest->layers[i].media_type);
    free(manifest->layers);
    *manifest = (struct image_manifest){ 0 };
}

/* False when `text` does not fit or has a character that no platform name has. */
static bool copy_platform_part(char ret[32], const char *text, size_t length)
{
    if (length == 0 || length >= 32) return false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'))
            return false;
        ret[i] = c;
    }
    ret[length] = '\0';
    return true;
}

int platform_parse(struct platform *ret, const char *text, struct error **error)
{
    *ret = (struct platform){ 0 };
    char *const parts[] = { ret->os, ret->architecture, ret->variant };
    size_t count = 0;
    const char *part = text;
    for (;;) {
        size_t length = strcspn(part, "/");
        if (count == 3 || !copy_platform_part(parts[count], part, length)) break;
        count++;
        if (part[length] == '\0') {
            if (count >= 2) return 0;
            break;
        }
        part += length + 1;
    }
    return error_set(error, ERROR_INVALID,
                     "'%.80s' is not a platform; write os/architecture[/variant], for example "
                     "linux/amd64",
                     text);
}

void platform_of_host(struct platform *ret)
{
    static const struct {
        const char *machine, *architecture, *variant;
    } names[] = {
        { "x86_64", "amd64", "" }, { "aarch64", "arm64", "" },   { "armv7l", "arm", "v7" },
        { "i686", "386", "" },     { "riscv64", "riscv64", "" }, { "ppc64le", "ppc64le", "" },
        { "s390x", "s390x", "" },
    };
    struct utsname host;
    *ret = (struct platform){ .os = "linux", .architecture = "amd64" };
    if (uname(&host) < 0) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(host.machine, names[i].machine) == 0) {
            snprintf(ret->architecture, sizeof ret->architecture, "%s", names[i].architecture);
            snprintf(ret->variant, sizeof ret->variant, "%s", names[i].variant);
        }
}

char *platform_format(const struct platform *platform, char text[PLATFORM_TEXT_SIZE])
{
    snprintf(text, PLATFORM_TEXT_SIZE, "%s/%s%s%s", platform->os, platform->architecture,
             platform->variant[0] ? "/" : "", platform->variant);
    return text;
}

bool manifest_is_image_index(const char *media_type, const void *data, size_t length)
{
    if (strcmp(media_type, MEDIA_TYPE_OCI_INDEX) == 0 ||
        strcmp(media_type, MEDIA_TYPE_DOCKER_LIST) == 0)
        return true;
    if (strcmp(media_type, MEDIA_TYPE_OCI_MANIFEST) == 0 ||
        strcmp(media_type, MEDIA_TYPE_DOCKER_MANIFEST) == 0)
        return false;
    cleanup_json json_t *root = json_read_object(data, length, "manifest", NULL);
    return root && json_is_array(json_object_get(root, "manifests"));
}

/* Missing fields read as empty and match nothing. */
static void read_platform(struct platform *ret, const json_t *object)
{
    const char *os = json_optional_text(object, "os");
    const char *architecture = json_optional_text(object, "architecture");
    const char *variant = json_optional_text(object, "variant");
    snprintf(ret->os, sizeof ret->os, "%s", os ? os : "");
    snprintf(ret->architecture, sizeof ret->architecture, "%s", architecture ? architecture : "");
    snprintf(ret->variant, sizeof ret->variant, "%s", variant ? variant : "");
}

/* arm64's "v8" is what having no variant means. */
static const char *meant_variant(const struct platform *platform)
{
    bool usual =
        strcmp(platform->architecture, "arm64") == 0 && strcmp(platform->variant, "v8") == 0;
    return usual ? "" : platform->variant;
}

bool platform_matches(const struct platform *wanted, const struct platform *found)
{
    const char *variant = meant_variant(wanted);
    return strcmp(wanted->os, found->os) == 0 &&
           strcmp(wanted->architecture, found->architecture) == 0 &&
           (variant[0] == '\0' || strcmp(variant, meant_variant(found)) == 0);
}

int image_index_select(const void *data, size_t length, const struct platform *platform,
                       struct digest *ret, struct error **error)
{
    cleanup_json json_t *root = json_read_object(data, length, "image index", error);
    if (!root) return -1;
    const json_t *manifests = json_field_array(root, "manifests", error);
    if (!manifests) return error_prefix(error, "image index");
    cleanup_buffer struct buffer seen = { 0 };
    char text[PLATFORM_TEXT_SIZE];
    size_t i;
    json_t *manifest;
    json_array_foreach(manifests, i, manifest)
    {
        struct platform found;
        read_platform(&found, json_object_get(manifest, "platform"));
        if (platform_matches(platform, &found)) {
            if (json_field_digest(manifest, "digest", ret, error) < 0)
                return error_prefix(error, "image index");
            return 0;
        }
        /* Attestations are listed as unknown/unknown. */
        if (found.os[0] == '\0' || strcmp(found.os, "unknown") == 0 || seen.length > 400) continue;
        platform_format(&found, text);
        if (buffer_append(&seen, seen.length ? ", " : " ", seen.length ? 2 : 1) < 0 ||
            buffer_append(&seen, text, strlen(text)) < 0)
            return error_set_memory(error);
    }
    return error_set(error, ERROR_NOT_FOUND,
                     "image has nothing for platform %s; it has%.*s; choose with --platform",
                     platform_format(platform, text), seen.length ? (int)seen.length : 8,
                     seen.length ? (const char *)seen.data : " no other");
}

int image_config_parse(struct image_config *ret, const void *data, size_t length,
                       struct error **error)
{
    *ret = (struct image_config){ 0 };
    cleanup_json json_t *root = json_read_object(data, length, "image config", error);
    if (!root) return -1;
    read_platform(&ret->platform, root);
    const json_t *digests = json_field_array(json_object_get(root, "rootfs"), "diff_ids", error);
    if (!digests) return error_prefix(error, "image config: rootfs");
    size_t count = json_array_size(digests);
    if (count > IMAGE_LAYERS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "image config: %zu layers are too many", count);
    ret->stream_digests = calloc(count + 1, sizeof *ret->stream_digests);
    if (!ret->stream_digests) return error_set_memory(error);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(digests, i));
        if (!text) error_set(error, ERROR_INVALID, "diffID %zu is no string", i + 1);
        if (!text || digest_parse(&ret->stream_digests[i], text, error) < 0) {
            image_config_free(ret);
            return error_prefix(error, "image config");
        }
    }
    ret->layer_count = count;
    return 0;
}

void image_config_free(struct image_config *config)
{
    free(config->stream_digests);
    *config = (struct image_config){ 0 };
}
