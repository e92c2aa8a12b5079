#include "node/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

int image_parse(struct image *ret, const char *reference, const struct platform *platform,
                struct error **error)
{
    *ret = (struct image){ .platform_asked = platform };
    if (platform)
        ret->platform = *platform;
    else
        platform_of_host(&ret->platform);
    if (image_reference_parse(&ret->reference, reference, error) < 0) return -1;
    ret->name = image_reference_format(&ret->reference);
    if (!ret->name) {
        image_free(ret);
        return error_set_memory(error);
    }
    ret->repository = (struct repository){ ret->reference.registry, ret->reference.repository };
    return 0;
}

int image_set_manifest(struct image *image, const struct digest *digest, const char *media_type,
                       struct buffer *body, struct error **error)
{
    if (image_manifest_parse(&image->manifest, body->data, body->length, error) < 0)
        return error_prefix(error, "image %s", image->name);
    image->media_type = strdup(media_type);
    if (!image->media_type) return error_set_memory(error);
    image->digest = *digest;
    image->body = *body;
    *body = (struct buffer){ 0 };
    return 0;
}

/* The media type that the index names as its subject's: the one the body states, since an answer's
 * header may carry parameters or nothing. */
static const char *media_type_of(const struct registry_manifest *manifest)
{
    return strcmp(manifest->media_type, MEDIA_TYPE_DOCKER_MANIFEST) == 0
               ? MEDIA_TYPE_DOCKER_MANIFEST
               : MEDIA_TYPE_OCI_MANIFEST;
}

/* What was asked for must not be another's: the only thing that tells is the config. */
static int check_platform(const struct image *image, struct registry_client *client,
                          struct error **error)
{
    char wanted[PLATFORM_TEXT_SIZE], found[PLATFORM_TEXT_SIZE];
    cleanup_buffer struct buffer body = { 0 };
    struct image_config config;
    if (registry_get_blob(client, &image->repository, &image->manifest.config.digest,
                          IMAGE_CONFIG_LENGTH_MAX, &body, error) < 0)
        return -1;
    if (image_config_parse(&config, body.data, body.length, error) < 0)
        return error_prefix(error, "image %s", image->name);
    struct platform platform = config.platform;
    image_config_free(&config);
    if (platform_matches(&image->platform, &platform)) return 0;
    error_set(error, ERROR_NOT_FOUND, "image %s has nothing for platform %s; it is one for %s",
              image->name, platform_format(&image->platform, wanted),
              platform_format(&platform, found));
    return error_hint(error, "without --platform it is taken as it is");
}

int image_resolve(struct image *image, struct registry_client *client, struct error **error)
{
    struct registry_manifest manifest = { 0 };
    if (registry_get_manifest(client, &image->repository, image_reference_target(&image->reference),
                              &manifest, error) < 0)
        return -1;
    image->target = manifest.digest;
    int result = 0;
    bool chosen = false;
    if (manifest_is_image_index(manifest.media_type, manifest.body.data, manifest.body.length)) {
        struct digest digest;
        char text[DIGEST_TEXT_SIZE];
        result = image_index_select(manifest.body.data, manifest.body.length, &image->platform,
                                    &digest, error);
        if (result < 0) error_prefix(error, "%s", image->name);
        chosen = true;
        registry_manifest_free(&manifest);
        manifest = (struct registry_manifest){ 0 };
        if (result == 0)
            result = registry_get_manifest(client, &image->repository, digest_format(&digest, text),
                                           &manifest, error);
    }
    if (result == 0)
        result = image_set_manifest(image, &manifest.digest, media_type_of(&manifest),
                                    &manifest.body, error);
    registry_manifest_free(&manifest);
    if (result == 0 && image->platform_asked && !chosen)
        result = check_platform(image, client, error);
    return result;
}

uint64_t image_blob_bytes(const struct image *image)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < image->manifest.layer_count; i++)
        bytes += image->manifest.layers[i].size;
    return bytes;
}

void image_free(struct image *image)
{
    image_reference_free(&image->reference);
    image_manifest_free(&image->manifest);
    buffer_free(&image->body);
    free(image->media_type);
    free(image->name);
    *image = (struct image){ 0 };
}

int image_find_index(const struct image *image, struct registry_client *client, struct digest *ret,
                     struct error **error)
{
    cleanup_buffer struct buffer referrers = { 0 };
    if (registry_get_referrers(client, &image->repository, &image->digest, ARTIFACT_TYPE_INDEX,
                               &referrers, error) < 0)
        return -1;
    return index_referrer_find(referrers.data, referrers.length, ret) ? 1 : 0;
}

/* An index that the manifest names cannot have that manifest as its subject, for the manifest's
 * digest depends on the index's. */
static bool is_of_image(const struct image *image, const struct index_artifact *artifact,
                        const struct digest *index)
{
    const struct image_manifest *manifest = &image->manifest;
    bool named = manifest->names_index && digest_equal(&manifest->index, index);
    bool same = (named || digest_equal(&artifact->subject, &image->digest)) &&
                artifact->layer_count == manifest->layer_count;
    for (size_t i = 0; same && i < artifact->layer_count; i++)
        same = digest_equal(&artifact->layers[i].blob_digest, &manifest->layers[i].digest);
    return same;
}

int image_check_index(const struct image *image, const struct index_artifact *artifact,
                      const struct digest *index, struct error **error)
{
    if (is_of_image(image, artifact, index)) return 0;
    error_set(error, ERROR_INVALID, "image %s: the index found for it is of another image",
              image->name);
    return error_hint(error, "make a new one with: sluice index --force %s", image->name);
}

int image_without_index(const struct image *image, struct error **error)
{
    error_set(error, ERROR_NOT_FOUND, "image %s has no sluice index", image->name);
    return error_hint(error, "make one with: sluice index %s", image->name);
}
