#include "deploytool/convert_profile.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "deploytool/index_build-internal.h"
#include "deploytool/profile_files.h"
#include "node/profile_part.h"

/* ---- the source's ---- */

static int read_profile(struct source_profile *ret, struct registry_client *client,
                        const char *file, struct error **error)
{
    const struct profile_target *target = &ret->target;
    cleanup_buffer struct buffer content = { 0 };
    if (!file && target->artifact.profile.size == 0) return 0;
    int result = file ? file_read(file, PROFILE_LENGTH_MAX, &content, error)
                      : profile_part_fetch(client, &target->image.repository,
                                           &target->artifact.profile, &content, error);
    if (result == 0)
        result = profile_decode(&ret->profile, content.data, content.length, target->layers,
                                target->artifact.layer_count, error);
    if (result < 0)
        return error_prefix(error, file ? "'%s'" : "index of %s", file ? file : target->image.name);
    return 1;
}

static int load(struct source_profile *ret, struct registry_client *client, const char *reference,
                const struct platform *platform, const struct digest *image, const char *file,
                struct error **error)
{
    if (profile_target_load(&ret->target, client, reference, platform, error) < 0) return -1;
    if (!digest_equal(&ret->target.image.digest, image))
        return error_set(error, ERROR_INVALID, "%s: somebody pushed another image meanwhile",
                         ret->target.image.name);
    return read_profile(ret, client, file, error);
}

int source_profile_load(struct source_profile *ret, struct registry_client *client,
                        const char *reference, const struct platform *platform,
                        const struct digest *image, const char *file, struct error **error)
{
    struct error *reason = NULL;
    *ret = (struct source_profile){ 0 };
    int result = load(ret, client, reference, platform, image, file, &reason);
    if (result > 0) return 1;
    source_profile_free(ret);
    if (result == 0) return 0;
    if (file) return error_move(error, reason);
    /* An image needs no index to be converted. */
    if (error_kind_of(reason) != ERROR_NOT_FOUND)
        log_warning("converting without a profile: %s", error_message(reason));
    error_free(reason);
    return 0;
}

void source_profile_free(struct source_profile *source)
{
    profile_free(&source->profile);
    profile_target_free(&source->target);
}

/* ---- the new one ---- */

/* A touch of any layer, with what it takes to put all of them in order. */
struct placed_touch {
    const struct moved_touch *touch;
    uint32_t layer;
};

static int compare_placed(const void *left_pointer, const void *right_pointer)
{
    const struct placed_touch *left = left_pointer, *right = right_pointer;
    if (left->touch->named != right->touch->named) return left->touch->named ? -1 : 1;
    if (left->touch->entry != right->touch->entry)
        return left->touch->entry < right->touch->entry ? -1 : 1;
    if (left->layer != right->layer) return left->layer < right->layer ? -1 : 1;
    /* Of one entry and layer: as they stand there. */
    return left->touch < right->touch ? -1 : left->touch > right->touch;
}

/* All touches of all layers in fresh memory; NULL: out of memory. */
static struct placed_touch *place_touches(const struct converted_layer *const *layers,
                                          size_t layer_count, size_t *ret_count)
{
    size_t count = 0, filled = 0;
    for (size_t i = 0; i < layer_count; i++)
        count += layers[i]->touch_count;
    struct placed_touch *placed = calloc(count + 1, sizeof *placed);
    if (!placed) return NULL;
    for (size_t i = 0; i < layer_count; i++)
        for (size_t k = 0; k < layers[i]->touch_count; k++)
            placed[filled++] = (struct placed_touch){ &layers[i]->touches[k], (uint32_t)i };
    qsort(placed, count, sizeof *placed, compare_placed);
    *ret_count = count;
    return placed;
}

static int add_touch(struct profile_writer *writer, const struct source_profile *source,
                     const struct placed_touch *placed, const struct chunk_table *table,
                     struct error **error)
{
    const struct moved_touch *touch = placed->touch;
    const struct profile_entry *entry = &source->profile.entries[touch->entry];
    bool has_path = touch->named && entry->path != PROFILE_NO_PATH;
    const char *path = has_path ? source->profile.paths[entry->path] : NULL;
    uint32_t last = chunk_table_find(table, touch->offset + touch->length - 1);
    for (uint32_t i = chunk_table_find(table, touch->offset); i <= last; i++)
        if (profile_writer_add(writer, placed->layer, i, entry->milliseconds, path, error) < 0)
            return -1;
    return 0;
}

static int encode_touches(const struct source_profile *source,
                          const struct converted_layer *const *layers,
                          struct chunk_table *const *tables, const struct profile_layer *known,
                          size_t layer_count, struct buffer *ret, struct error **error)
{
    size_t count;
    cleanup_free struct placed_touch *placed = place_touches(layers, layer_count, &count);
    struct profile_writer *writer;
    if (!placed) return error_set_memory(error);
    if (profile_writer_new(&writer, known, layer_count, error) < 0) return -1;
    int result = 0;
    for (size_t i = 0; result == 0 && i < count; i++)
        result = add_touch(writer, source, &placed[i], tables[placed[i].layer], error);
    if (result == 0) result = profile_writer_encode(writer, ret, error);
    profile_writer_free(writer);
    return result;
}

/* ---- what it costs ---- */

static int compare_entries(const void *left_pointer, const void *right_pointer)
{
    const struct profile_entry *left = left_pointer, *right = right_pointer;
    if (left->layer != right->layer) return left->layer < right->layer ? -1 : 1;
    return left->first < right->first ? -1 : left->first > right->first;
}

static int find_cost(const struct profile *profile, struct chunk_table *const *tables,
                     struct profile_cost *ret, struct error **error)
{
    size_t count = profile->entry_count;
    cleanup_free struct profile_entry *entries = calloc(count + 1, sizeof *entries);
    if (!entries) return error_set_memory(error);
    if (count) memcpy(entries, profile->entries, count * sizeof *entries);
    qsort(entries, count, sizeof *entries, compare_entries);
    *ret = (struct profile_cost){ .bytes = profile_blob_bytes(profile, tables) };
    for (size_t i = 0; i < count; i++)
        if (i == 0 || entries[i].layer != entries[i - 1].layer ||
            entries[i].first != entries[i - 1].first + entries[i - 1].count)
            ret->runs++;
    return 0;
}

/* Of the new profile, as a reader will see it. */
static int find_new_cost(const struct buffer *content, const struct profile_layer *known,
                         struct chunk_table *const *tables, size_t layer_count,
                         struct profile_cost *ret, struct error **error)
{
    struct profile profile;
    if (profile_decode(&profile, content->data, content->length, known, layer_count, error) < 0)
        return -1;
    int result = find_cost(&profile, tables, ret, error);
    profile_free(&profile);
    return result;
}

int source_profile_move(const struct source_profile *source,
                        const struct converted_layer *const *layers, struct built_index *index,
                        struct profile_cost *ret_before, struct profile_cost *ret_after,
                        struct error **error)
{
    size_t count = index->layer_count;
    cleanup_buffer struct buffer content = { 0 };
    cleanup_free struct chunk_table **tables = calloc(count + 1, sizeof(*tables));
    if (!tables) return error_set_memory(error);
    for (size_t i = 0; i < count; i++)
        tables[i] = index->layers[index->layer_of[i]].tables.chunks;
    cleanup_free struct profile_layer *known = profile_layers_of(&index->artifact, tables);
    if (!known) return error_set_memory(error);
    if (find_cost(&source->profile, source->target.tables, ret_before, error) < 0 ||
        encode_touches(source, layers, tables, known, count, &content, error) < 0 ||
        find_new_cost(&content, known, tables, count, ret_after, error) < 0 ||
        built_part_pack(&index->profile, &content, error) < 0)
        return -1;
    index->artifact.profile = index->profile.part;
    return built_index_encode(index, error);
}
