/* An image in a registry: from the name a person types to its manifest for one platform. */
#ifndef SLUICE_NODE_IMAGE_H
#define SLUICE_NODE_IMAGE_H

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "fetcher/reference.h"
#include "fetcher/registry.h"
#include "index/artifact.h"
#include "index/image_manifest.h"

struct image {
    struct image_reference reference;
    char *name;                   /* the reference in full, for messages */
    struct repository repository; /* borrows from `reference` */
    struct platform platform;
    bool platform_asked;  /* else it is this machine's, and prefers only */
    struct digest target; /* what the reference means: a manifest or an image index */
    struct digest digest; /* of the platform's manifest */
    struct buffer body;   /* the platform's manifest */
    char *media_type;
    struct image_manifest manifest;
};

/* Only the reference and the platform; everything else stays zero. `platform` is what was asked
 * for, and an image of one platform that is another is refused; NULL: this machine's, where there
 * is a choice. */
int image_parse(struct image *ret, const char *reference, const struct platform *platform,
                struct error **error);
/* Asks the registry and fills the rest. */
int image_resolve(struct image *image, struct registry_client *client, struct error **error);
/* Takes a manifest (of digest `digest`) as the image's: parses and keeps it. */
int image_set_manifest(struct image *image, const struct digest *digest, const char *media_type,
                       struct buffer *body, struct error **error);
uint64_t image_blob_bytes(const struct image *image);
void image_free(struct image *image);

/* 1: the registry has an index for the image, 0: it has none, -1: error. */
int image_find_index(const struct image *image, struct registry_client *client, struct digest *ret,
                     struct error **error);
/* Checks that a decoded index (of digest `index`) is one of this image: its layers, and its subject
 * unless the image's manifest names it. */
int image_check_index(const struct image *image, const struct index_artifact *artifact,
                      const struct digest *index, struct error **error);
/* "image X has no index; make one with: sluice index X". Returns -1. */
int image_without_index(const struct image *image, struct error **error);

#endif
