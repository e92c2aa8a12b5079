/*
 * Fed: an index artifact, or a list of referrers, as a registry sends it.
 *
 * Holds: an artifact that is accepted is within the bounds of the header, and
 * written out it is accepted again and then stays the same to the byte; an
 * artifact that is added to a list of referrers is the one that is found in it.
 */
#include "index/artifact.h"
#include "index/image_manifest.h"
#include "index/profile.h"
#include "tests/fuzz/fuzz.h"

static void check_part(const struct index_part *part)
{
    EXPECT(part->size > 0 && part->size <= PART_LENGTH_MAX);
    EXPECT(part->content_size > 0 && part->content_size <= PART_LENGTH_MAX);
}

static void check_fields(const struct index_artifact *artifact)
{
    EXPECT(artifact->subject_media_type);
    EXPECT(artifact->layer_count > 0 && artifact->layer_count <= IMAGE_LAYERS_MAX);
    check_part(&artifact->metadata);
    uint64_t tables = 0;
    for (size_t i = 0; i < artifact->layer_count; i++) {
        const struct index_layer *layer = &artifact->layers[i];
        check_part(&layer->chunks);
        check_part(&layer->entries);
        tables += layer->chunks.content_size;
        if (layer->windows.size) check_part(&layer->windows);
    }
    EXPECT(tables <= CHUNK_TABLES_LENGTH_MAX);
    if (artifact->profile.size) {
        check_part(&artifact->profile);
        EXPECT(artifact->profile.content_size <= PROFILE_LENGTH_MAX);
    }
    EXPECT(artifact->revision <= INDEX_REVISION_MAX);
}

static void check_artifact(const uint8_t *data, size_t length)
{
    struct index_artifact artifact, again;
    struct error *error = NULL;
    struct buffer first = { 0 }, second = { 0 };
    if (index_artifact_decode(&artifact, data, length, &error) < 0) {
        expect_error(error);
        error_free(error);
        return;
    }
    check_fields(&artifact);
    EXPECT_SUCCESS(index_artifact_encode(&artifact, &first, &error));
    EXPECT_SUCCESS(index_artifact_decode(&again, first.data, first.length, &error));
    EXPECT_SUCCESS(index_artifact_encode(&again, &second, &error));
    EXPECT(equal_buffers(&first, &second));
    buffer_free(&first);
    buffer_free(&second);
    index_artifact_free(&artifact);
    index_artifact_free(&again);
}

static void check_referrers(const uint8_t *data, size_t length)
{
    const struct index_referrer added = { .digest = { { 7 } }, .size = 123 };
    struct digest found;
    struct error *error = NULL;
    struct buffer list = { 0 };
    (void)index_referrer_find(data, length, &found);
    if (index_referrer_add(data, length, &added, &list, &error) == 0) {
        EXPECT(index_referrer_find(list.data, list.length, &found));
        EXPECT(digest_equal(&found, &added.digest));
    } else {
        expect_error(error);
    }
    buffer_free(&list);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    check_artifact(data, length);
    check_referrers(data, length);
    return 0;
}
