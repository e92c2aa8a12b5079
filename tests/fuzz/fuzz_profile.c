/*
 * Fed: the profile of an index of three layers, whose tables have the digest 0.
 *
 * Holds: what is accepted names chunks that there are, each once, and is what the writer makes of
 * the same touches, to the byte; added to another it changes nothing of that one's order.
 */
#include "index/profile.h"
#include "tests/fuzz/fuzz.h"

static const struct profile_layer LAYERS[] = { { .chunk_count = 100 },
                                               { .chunk_count = 5 },
                                               { .chunk_count = 1 } };
#define LAYER_COUNT 3

static void check_fields(const struct profile *profile)
{
    uint64_t chunks = 0;
    uint32_t paths = 0;
    for (size_t i = 0; i < profile->entry_count; i++) {
        const struct profile_entry *entry = &profile->entries[i];
        EXPECT(entry->layer < LAYER_COUNT && entry->count > 0);
        EXPECT(entry->first < LAYERS[entry->layer].chunk_count);
        EXPECT(entry->count <= LAYERS[entry->layer].chunk_count - entry->first);
        EXPECT(i == 0 || entry->milliseconds >= entry[-1].milliseconds);
        chunks += entry->count;
        if (entry->path == PROFILE_NO_PATH) continue;
        EXPECT(entry->path <= paths && entry->path < profile->path_count);
        paths += entry->path == paths;
    }
    EXPECT(chunks == profile->chunk_count && chunks <= 106);
    EXPECT(paths == profile->path_count);
}

static void check_round_trip(const struct profile *profile, const uint8_t *data, size_t length)
{
    struct profile_writer *writer = NULL;
    struct error *error = NULL;
    struct buffer once = { 0 }, twice = { 0 };
    EXPECT_SUCCESS(profile_writer_new(&writer, LAYERS, LAYER_COUNT, &error));
    EXPECT_SUCCESS(profile_writer_add_all(writer, profile, &error));
    EXPECT_SUCCESS(profile_writer_encode(writer, &once, &error));
    EXPECT(once.length == length && memcmp(once.data, data, length) == 0);
    EXPECT_SUCCESS(profile_writer_add_all(writer, profile, &error));
    EXPECT_SUCCESS(profile_writer_encode(writer, &twice, &error));
    EXPECT(equal_buffers(&once, &twice));
    buffer_free(&once);
    buffer_free(&twice);
    profile_writer_free(writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct profile profile;
    struct error *error = NULL;
    if (profile_decode(&profile, data, length, LAYERS, LAYER_COUNT, &error) < 0) {
        expect_error(error);
        error_free(error);
        return 0;
    }
    check_fields(&profile);
    check_round_trip(&profile, data, length);
    profile_free(&profile);
    return 0;
}
