#include "deploytool/profile_target.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/parallel.h"
#include "node/part_fetch.h"
#include "node/profile_part.h"

#define FETCHES_AT_ONCE 4

struct loading {
    struct profile_target *target;
    struct registry_client *client;
};

/* parallel_work */
static int load_table(void *context, size_t layer, struct error **error)
{
    struct loading *loading = context;
    struct profile_target *target = loading->target;
    cleanup_buffer struct buffer content = { 0 };
    /* The artifact bounds their sum. */
    if (part_fetch_buffer(loading->client, &target->image.repository,
                          &target->artifact.layers[layer].chunks, &content, error) < 0 ||
        chunk_table_decode(&target->tables[layer], content.data, content.length, error) < 0)
        return error_prefix(error, "index of %s", target->image.name);
    return 0;
}

static int load_process(struct loading *loading, struct error **error)
{
    struct profile_target *target = loading->target;
    cleanup_buffer struct buffer config = { 0 };
    if (registry_get_blob(loading->client, &target->image.repository,
                          &target->image.manifest.config.digest, IMAGE_CONFIG_LENGTH_MAX, &config,
                          error) < 0)
        return -1;
    return image_process_parse(&target->process, config.data, config.length, error);
}

static int load_index(struct loading *loading, struct error **error)
{
    struct profile_target *target = loading->target;
    char text[DIGEST_TEXT_SIZE];
    struct registry_manifest manifest = { 0 };
    if (index_choose(&target->image, loading->client, NULL, NULL, &target->index, error) < 0 ||
        registry_get_manifest(loading->client, &target->image.repository,
                              digest_format(&target->index.digest, text), &manifest, error) < 0)
        return -1;
    int result =
        index_artifact_decode(&target->artifact, manifest.body.data, manifest.body.length, error);
    registry_manifest_free(&manifest);
    if (result < 0) return error_prefix(error, "index of %s", target->image.name);
    return image_check_index(&target->image, &target->artifact, &target->index.digest, error);
}

int profile_target_load(struct profile_target *ret, struct registry_client *client,
                        const char *reference, const struct platform *platform,
                        struct error **error)
{
    struct loading loading = { ret, client };
    *ret = (struct profile_target){ 0 };
    if (image_parse(&ret->image, reference, platform, error) < 0) return -1;
    if (image_resolve(&ret->image, client, error) < 0 || load_index(&loading, error) < 0 ||
        load_process(&loading, error) < 0)
        return -1;
    size_t count = ret->artifact.layer_count;
    ret->tables = calloc(count, sizeof *ret->tables);
    if (!ret->tables) return error_set_memory(error);
    if (parallel_run(count, FETCHES_AT_ONCE, load_table, &loading, error) < 0) return -1;
    ret->layers = profile_layers_of(&ret->artifact, ret->tables);
    return ret->layers ? 0 : error_set_memory(error);
}

void profile_target_free(struct profile_target *target)
{
    for (size_t i = 0; target->tables && i < target->artifact.layer_count; i++)
        chunk_table_free(target->tables[i]);
    free(target->tables);
    free(target->layers);
    image_process_free(&target->process);
    index_artifact_free(&target->artifact);
    image_free(&target->image);
    *target = (struct profile_target){ 0 };
}

int profile_target_merge(const struct profile_target *target, struct registry_client *client,
                         const struct profile *profile, struct buffer *ret, struct error **error)
{
    cleanup_buffer struct buffer content = { 0 };
    struct profile_writer *writer;
    struct profile before = { 0 };
    size_t count = target->artifact.layer_count;
    if (target->artifact.profile.size &&
        (profile_part_fetch(client, &target->image.repository, &target->artifact.profile, &content,
                            error) < 0 ||
         profile_decode(&before, content.data, content.length, target->layers, count, error) < 0))
        return error_prefix(error, "--merge: index of %s", target->image.name);
    int result = profile_writer_new(&writer, target->layers, count, error);
    if (result == 0) {
        result = profile_writer_add_all(writer, &before, error);
        if (result == 0) result = profile_writer_add_all(writer, profile, error);
        if (result == 0) result = profile_writer_encode(writer, ret, error);
        profile_writer_free(writer);
    }
    profile_free(&before);
    return result;
}
