/* Layers' entries from anywhere, merged. */
#ifndef SLUICE_TESTS_FUZZ_MERGE_AND_REBUILD_H
#define SLUICE_TESTS_FUZZ_MERGE_AND_REBUILD_H

#include "tests/fuzz/fuzz.h"
#include "tests/tools/image_rebuild.h"

/* What the merge makes must be accepted, be ours, and the same each time. False: it is an error
 * to merge these layers. */
static inline bool merge_and_rebuild(const struct merge_layer *layers, size_t count)
{
    struct error *error = NULL;
    struct buffer bytes = { 0 }, again = { 0 };
    struct erofs_image image;
    uint64_t *lengths = calloc(count + 1, sizeof *lengths);
    EXPECT(lengths);
    for (size_t i = 0; i < count; i++)
        lengths[i] = layers[i].stream_length;
    bool merged = merge_layers(layers, count, &bytes, &error) == 0;
    if (merged) {
        EXPECT_SUCCESS(merge_layers(layers, count, &again, &error));
        EXPECT(equal_buffers(&bytes, &again));
        EXPECT_SUCCESS(erofs_image_open(&image, bytes.data, bytes.length, &error));
        EXPECT_SUCCESS(erofs_image_validate(&image, lengths, (uint32_t)count, &error));
        expect_rebuilt(&image, lengths);
    } else {
        expect_error(error);
    }
    error_free(error);
    buffer_free(&bytes);
    buffer_free(&again);
    free(lengths);
    return merged;
}

#endif
