/* What an index that is made anew keeps of the one in whose place it comes. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "deploytool/index_build-internal.h"
#include "node/profile_part.h"

/* As profiles know them, in fresh memory; NULL: out of memory. */
static struct profile_layer *layers_of(const struct built_index *index)
{
    cleanup_free struct chunk_table **tables = calloc(index->layer_count + 1, sizeof(*tables));
    for (size_t i = 0; tables && i < index->layer_count; i++)
        tables[i] = index->layers[index->layer_of[i]].tables.chunks;
    return tables ? profile_layers_of(&index->artifact, tables) : NULL;
}

/* 1: `ret` is a profile of the new index, too; 0: it is not, and the log says why. */
static int fetch_profile(const struct built_index *index, const struct image *image,
                         struct registry_client *client, const struct index_part *part,
                         struct buffer *ret, struct error **error)
{
    struct profile profile;
    cleanup_free struct profile_layer *layers = layers_of(index);
    cleanup_error struct error *reason = NULL;
    if (!layers) return error_set_memory(error);
    if (profile_part_fetch(client, &image->repository, part, ret, &reason) == 0 &&
        profile_decode(&profile, ret->data, ret->length, layers, index->layer_count, &reason) ==
            0) {
        profile_free(&profile);
        return 1;
    }
    log_warning("the profile of the index before is left out: %s", error_message(reason));
    return 0;
}

static int keep_profile(struct built_index *index, const struct image *image,
                        struct registry_client *client, const struct index_part *part,
                        struct error **error)
{
    cleanup_buffer struct buffer content = { 0 };
    if (part->size == 0) return 0;
    int kept = fetch_profile(index, image, client, part, &content, error);
    if (kept <= 0) return kept;
    if (built_part_pack(&index->profile, &content, error) < 0) return -1;
    index->artifact.profile = index->profile.part;
    return 1;
}

int built_index_follow(struct built_index *index, const struct image *image,
                       struct registry_client *client, const struct index_artifact *before,
                       const struct digest *digest, struct error **error)
{
    int kept = keep_profile(index, image, client, &before->profile, error);
    if (kept < 0) return -1;
    index->artifact.revision = before->revision;
    if (built_index_encode(index, error) < 0) return -1;
    /* An index that never had a profile is the same wherever it is made. */
    if (before->revision == 0 || digest_equal(&index->digest, digest)) return kept;
    if (before->revision < INDEX_REVISION_MAX) index->artifact.revision++;
    return built_index_encode(index, error) < 0 ? -1 : kept;
}
