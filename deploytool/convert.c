#include "deploytool/convert.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

struct converting {
    const struct conversion *conversion;
    struct conversion_result *result;
    struct buffer config_body;
    struct image_config config;
    size_t layer_count;
    struct converted_layer *layers; /* of the image; one that it has twice is made once */
    size_t *made_as;                /* for each layer the position in `layers` where it was made */
    struct buffer new_config;
    struct digest new_config_digest;
};

static void converting_free(struct converting *converting)
{
    for (size_t i = 0; i < converting->layer_count; i++)
        converted_layer_free(&converting->layers[i]);
    free(converting->layers);
    free(converting->made_as);
    image_config_free(&converting->config);
    buffer_free(&converting->config_body);
    buffer_free(&converting->new_config);
}
#define cleanup_converting __attribute__((cleanup(converting_free)))

/* ---- the layers ---- */

static int start(struct converting *converting, struct error **error)
{
    const struct conversion *conversion = converting->conversion;
    const struct image *source = conversion->source;
    size_t count = source->manifest.layer_count;
    if (registry_get_blob(conversion->client, &source->repository, &source->manifest.config.digest,
                          IMAGE_CONFIG_LENGTH_MAX, &converting->config_body, error) < 0)
        return -1;
    if (image_config_parse(&converting->config, converting->config_body.data,
                           converting->config_body.length, error) < 0)
        return error_prefix(error, "image %s", source->name);
    if (converting->config.layer_count != count)
        return error_set(error, ERROR_INVALID,
                         "image %s: its config names %zu layers and its manifest %zu", source->name,
                         converting->config.layer_count, count);
    converting->layers = calloc(count, sizeof *converting->layers);
    converting->made_as = calloc(count, sizeof *converting->made_as);
    if (!converting->layers || !converting->made_as) return error_set_memory(error);
    converting->layer_count = count;
    return 0;
}

/* The order of a layer that the image has twice is kept: what may be moved depends on what lies
 * below. */
static bool occurs_twice(const struct image_manifest *manifest, size_t number)
{
    for (size_t i = 0; i < manifest->layer_count; i++)
        if (i != number &&
            digest_equal(&manifest->layers[i].digest, &manifest->layers[number].digest))
            return true;
    return false;
}

static int convert_with_profile(struct converting *converting, struct layer_to_convert layer,
                                size_t number, struct error **error)
{
    const struct source_profile *source = converting->conversion->profile;
    struct layer_profile profile = { &source->profile, source->target.tables[number],
                                     (uint32_t)number };
    cleanup_free const struct entry_table **lower = calloc(number + 1, sizeof *lower);
    if (!lower) return error_set_memory(error);
    for (size_t i = 0; i < number; i++)
        lower[i] = converting->layers[converting->made_as[i]].entries;
    layer.profile = &profile;
    layer.lower = lower;
    layer.lower_count = number;
    return layer_convert(&layer, &converting->layers[number], error);
}

static int convert_layer(struct converting *converting, size_t number, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    const struct conversion *conversion = converting->conversion;
    const struct image *source = conversion->source;
    const struct descriptor *descriptor = &source->manifest.layers[number];
    struct layer_to_convert layer = { .client = conversion->client,
                                      .repository = &source->repository,
                                      .descriptor = descriptor,
                                      .stream_digest = &converting->config.stream_digests[number],
                                      .level = conversion->level,
                                      .threads = conversion->threads };
    if (layer.threads == 0) layer.threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    bool by_profile = conversion->profile && !occurs_twice(&source->manifest, number);
    int result = by_profile ? convert_with_profile(converting, layer, number, error)
                            : layer_convert(&layer, &converting->layers[number], error);
    if (result < 0)
        return error_prefix(error, "image %s: layer %zu (%.19s)", source->name, number + 1,
                            digest_format(&descriptor->digest, text));
    if (converting->layers[number].reordered) converting->result->layers_reordered++;
    if (conversion->layer_done)
        conversion->layer_done(conversion->context, number, &converting->layers[number]);
    return 0;
}

static int convert_layers(struct converting *converting, struct error **error)
{
    const struct image_manifest *manifest = &converting->conversion->source->manifest;
    for (size_t i = 0; i < converting->layer_count; i++) {
        size_t first = 0;
        while (!digest_equal(&manifest->layers[first].digest, &manifest->layers[i].digest))
            first++;
        converting->made_as[i] = first;
        if (first == i && convert_layer(converting, i, error) < 0) return -1;
        converting->result->bytes_before += manifest->layers[i].size;
        converting->result->bytes_after += converting->layers[first].as.blob_length;
    }
    return 0;
}

/* ---- config and manifest ---- */

static int push_blob(struct converting *converting, const struct digest *digest, const void *data,
                     size_t length, struct error **error)
{
    const struct conversion *conversion = converting->conversion;
    const struct repository *repository = &conversion->target->repository;
    int present = registry_has_blob(conversion->client, repository, digest, error);
    if (present != 0) return present < 0 ? -1 : 0;
    converting->result->bytes_pushed += length;
    return registry_put_blob(conversion->client, repository, digest, data, length, error);
}

static int push_layers(struct converting *converting, struct error **error)
{
    for (size_t i = 0; i < converting->layer_count; i++) {
        const struct converted_layer *layer = &converting->layers[i];
        if (converting->made_as[i] == i &&
            push_blob(converting, &layer->as.blob_digest, mapping_data(layer->blob),
                      mapping_length(layer->blob), error) < 0)
            return -1;
    }
    return 0;
}

/* Pushes the manifest by its digest: the one with the tag names the index, and this one is what the
 * index is of. */
static int push_manifest(struct converting *converting, const struct rewritten_layer *layers,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    const struct conversion *conversion = converting->conversion;
    const struct buffer *body = &conversion->source->body;
    cleanup_buffer struct buffer manifest = { 0 };
    struct digest digest;
    if (image_config_rewrite(converting->config_body.data, converting->config_body.length, layers,
                             converting->layer_count, &converting->new_config, error) < 0)
        return -1;
    const struct buffer *config = &converting->new_config;
    digest_of(config->data, config->length, &converting->new_config_digest);
    if (image_manifest_rewrite(body->data, body->length, &converting->new_config_digest,
                               config->length, layers, converting->layer_count, &manifest,
                               error) < 0)
        return -1;
    digest_of(manifest.data, manifest.length, &digest);
    if (push_blob(converting, &converting->new_config_digest, config->data, config->length, error) <
            0 ||
        registry_put_manifest(conversion->client, &conversion->target->repository,
                              digest_format(&digest, text), MEDIA_TYPE_OCI_MANIFEST, manifest.data,
                              manifest.length, NULL, error) < 0)
        return -1;
    return image_set_manifest(conversion->target, &digest, MEDIA_TYPE_OCI_MANIFEST, &manifest,
                              error);
}

static int push_image(struct converting *converting, struct error **error)
{
    cleanup_free struct rewritten_layer *layers = calloc(converting->layer_count, sizeof *layers);
    if (!layers) return error_set_memory(error);
    for (size_t i = 0; i < converting->layer_count; i++)
        layers[i] = converting->layers[converting->made_as[i]].as;
    if (push_layers(converting, error) < 0 || push_manifest(converting, layers, error) < 0)
        return error_prefix(error, "push %s", converting->conversion->target->name);
    return 0;
}

/* ---- the index ---- */

static int move_profile(struct converting *converting, struct error **error)
{
    struct conversion_result *result = converting->result;
    const struct source_profile *source = converting->conversion->profile;
    cleanup_free const struct converted_layer **layers =
        calloc(converting->layer_count, sizeof *layers);
    if (!layers) return error_set_memory(error);
    for (size_t i = 0; i < converting->layer_count; i++)
        layers[i] = &converting->layers[converting->made_as[i]];
    return source_profile_move(source, layers, &result->index, &result->profile_before,
                               &result->profile_after, error);
}

static int make_index(struct converting *converting, struct error **error)
{
    const struct conversion *conversion = converting->conversion;
    struct conversion_result *result = converting->result;
    struct index_progress progress = { 0 };
    cleanup_free const struct mapping **blobs = calloc(converting->layer_count, sizeof *blobs);
    if (!blobs) return error_set_memory(error);
    for (size_t i = 0; i < converting->layer_count; i++)
        blobs[i] = converting->layers[converting->made_as[i]].blob;
    if (index_build(conversion->target, conversion->client, conversion->threads, blobs, &progress,
                    &result->index, error) < 0 ||
        (conversion->profile && move_profile(converting, error) < 0) ||
        index_push(conversion->target, conversion->client, &result->index, &result->index_published,
                   error) < 0)
        return -1;
    return index_annotate(conversion->target, conversion->client, &result->index.digest,
                          conversion->target->reference.tag, &result->manifest, error);
}

int convert_image(const struct conversion *conversion, struct conversion_result *ret,
                  struct error **error)
{
    *ret = (struct conversion_result){ 0 };
    cleanup_converting struct converting converting = { .conversion = conversion, .result = ret };
    int result = start(&converting, error);
    if (result == 0) result = convert_layers(&converting, error);
    if (result == 0) result = push_image(&converting, error);
    if (result == 0) result = make_index(&converting, error);
    if (result < 0) conversion_result_free(ret);
    return result;
}

void conversion_result_free(struct conversion_result *result)
{
    built_index_free(&result->index);
    *result = (struct conversion_result){ 0 };
}
