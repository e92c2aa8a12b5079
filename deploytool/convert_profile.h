/* A profile through a conversion: the one that the source has, and what becomes of it. */
#ifndef SLUICE_DEPLOYTOOL_CONVERT_PROFILE_H
#define SLUICE_DEPLOYTOOL_CONVERT_PROFILE_H

#include "deploytool/index_build.h"
#include "deploytool/layer_convert.h"
#include "deploytool/profile_target.h"

struct source_profile {
    struct profile_target target; /* the image with its index, whose tables the profile is of */
    struct profile profile;
};

/* The profile of the image's index, or, where `file` is not NULL, the one in that file, which must
 * be of that index. 1: it is in `ret`; 0: there is none. `image` is what the reference was found to
 * mean. */
int source_profile_load(struct source_profile *ret, struct registry_client *client,
                        const char *reference, const struct platform *platform,
                        const struct digest *image, const char *file, struct error **error);
void source_profile_free(struct source_profile *source);

/* What a profile asks for: bytes of blobs, in so many runs of chunks that follow each other. */
struct profile_cost {
    uint64_t bytes;
    uint64_t runs;
};

/* Puts into a built index the profile of the same bytes: `layers` are the converted ones, for each
 * layer of the image. */
int source_profile_move(const struct source_profile *source,
                        const struct converted_layer *const *layers, struct built_index *index,
                        struct profile_cost *ret_before, struct profile_cost *ret_after,
                        struct error **error);

#endif
