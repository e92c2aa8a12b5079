/*
 * What a registry says of an image: manifests, image indexes (multi-platform)
 * and configs, in the OCI and the Docker schema 2 dialect.
 * https://github.com/opencontainers/image-spec (1.1)
 */
#ifndef SLUICE_INDEX_IMAGE_MANIFEST_H
#define SLUICE_INDEX_IMAGE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"

#define MEDIA_TYPE_OCI_MANIFEST    "application/vnd.oci.image.manifest.v1+json"
#define MEDIA_TYPE_OCI_INDEX       "application/vnd.oci.image.index.v1+json"
#define MEDIA_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define MEDIA_TYPE_DOCKER_LIST     "application/vnd.docker.distribution.manifest.list.v2+json"

/* An annotation of an image's manifest: the digest of its index. */
#define ANNOTATION_INDEX "vnd.sluice.index.digest"

/* Overlayfs and containerd stop at fewer; EROFS' device table and our validator know this many. */
#define IMAGE_LAYERS_MAX 512

struct descriptor {
    char *media_type; /* owned */
    struct digest digest;
    uint64_t size;
};

struct image_manifest {
    struct descriptor config;
    struct descriptor *layers; /* lowest first */
    size_t layer_count;
    bool names_index;
    struct digest index; /* that it names */
};

/* A part of Docker's image specification that names a layer which must not be pushed or is not a
 * tar is ERROR_UNSUPPORTED. */
int image_manifest_parse(struct image_manifest *ret, const void *data, size_t length,
                         struct error **error);
void image_manifest_free(struct image_manifest *manifest);

/* os/architecture[/variant] */
struct platform {
    char os[32];
    char architecture[32];
    char variant[32]; /* may be empty */
};
int platform_parse(struct platform *ret, const char *text, struct error **error);
/* Of this machine. */
void platform_of_host(struct platform *ret);
#define PLATFORM_TEXT_SIZE 100
char *platform_format(const struct platform *platform, char text[PLATFORM_TEXT_SIZE]);

/* Whether what is `found` will do for what is `wanted`: a variant counts where one is wanted. */
bool platform_matches(const struct platform *wanted, const struct platform *found);

/* True where a manifest's media type (or, when that says nothing, its body) is an image index. */
bool manifest_is_image_index(const char *media_type, const void *data, size_t length);
/* The manifest of `platform` in an image index. ERROR_NOT_FOUND names those there are. */
int image_index_select(const void *data, size_t length, const struct platform *platform,
                       struct digest *ret, struct error **error);

/* No config is longer. */
#define IMAGE_CONFIG_LENGTH_MAX (8u << 20)

struct image_config {
    struct platform platform;
    struct digest *stream_digests; /* diffIDs, lowest first */
    size_t layer_count;
};
int image_config_parse(struct image_config *ret, const void *data, size_t length,
                       struct error **error);
void image_config_free(struct image_config *config);

#endif
