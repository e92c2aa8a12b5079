/* Puts a built index where nodes find it: into the registry, or into an OCI image layout. */
#ifndef SLUICE_DEPLOYTOOL_INDEX_PUBLISH_H
#define SLUICE_DEPLOYTOOL_INDEX_PUBLISH_H

#include <stddef.h>
#include <stdint.h>

#include "deploytool/index_build.h"

struct publish_result {
    size_t parts_pushed, parts_present;
    uint64_t bytes_pushed;
};

/* Parts that the registry has are not pushed again. The index is attached to the image through the
 * Referrers API, or where the registry has none, through the fallback tag. */
int index_push(const struct image *image, struct registry_client *client,
               const struct built_index *index, struct publish_result *ret, struct error **error);

/* The manifest of an index whose parts are there, and its place among the image's referrers. */
int index_push_manifest(const struct image *image, struct registry_client *client,
                        const struct index_artifact *artifact, const struct buffer *manifest,
                        struct error **error);
/* Puts an index of the same parts, and with this profile (its content), in the place of the one
 * that was read from the registry; `artifact` becomes the new one, `ret` its digest. */
int index_push_profile(const struct image *image, struct registry_client *client,
                       struct index_artifact *artifact, const struct buffer *profile,
                       struct digest *ret, struct error **error);

/* 1 where every part of an index is in the registry, 0 where one is missing. */
int index_parts_present(const struct image *image, struct registry_client *client,
                        const struct index_artifact *artifact, struct error **error);

/* Pushes a copy of the image's manifest that names the index (ANNOTATION_INDEX) under `tag` of the
 * same repository: config and layers stay as they are. `ret` is the copy's digest. */
int index_annotate(const struct image *image, struct registry_client *client,
                   const struct digest *index, const char *tag, struct digest *ret,
                   struct error **error);

/* Writes into `directory`, an OCI image layout or a directory that is empty or missing:
 * index.json, which makes the rest visible, comes last and is replaced at once. Waits while another
 * process writes there, and removes what one that was killed has left. */
int index_write_layout(const char *directory, const struct built_index *index,
                       struct publish_result *ret, struct error **error);
/* Checks that index_write_layout() can write there, before the work is done. */
int index_check_layout(const char *directory, struct error **error);

#endif
