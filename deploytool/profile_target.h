/* An image in a registry with its index, as `sluice profile` needs them: to record, to publish. */
#ifndef SLUICE_DEPLOYTOOL_PROFILE_TARGET_H
#define SLUICE_DEPLOYTOOL_PROFILE_TARGET_H

#include "index/chunk_table.h"
#include "index/image_process.h"
#include "index/profile.h"
#include "node/image.h"
#include "node/trust.h"

struct profile_target {
    struct image image;
    struct chosen_index index;
    struct index_artifact artifact;
    struct chunk_table **tables;  /* one a layer */
    struct profile_layer *layers; /* as profiles know them */
    struct image_process process; /* what the image's config says */
};

/* Asks the registry. */
int profile_target_load(struct profile_target *ret, struct registry_client *client,
                        const char *reference, const struct platform *platform,
                        struct error **error);
void profile_target_free(struct profile_target *target);

/* `profile` behind the one that the index has, whose order wins, encoded. */
int profile_target_merge(const struct profile_target *target, struct registry_client *client,
                         const struct profile *profile, struct buffer *ret, struct error **error);

#endif
