/*
 * Fed: a layer's entry table, as an index carries it.
 *
 * Holds: what is accepted is what the encoder writes, to the byte; memory is
 * bounded; and such a layer merges into an image that is accepted, or is
 * refused with a reason.
 */
#include "tests/fuzz/merge_and_rebuild.h"

#define STREAM_LENGTH (1ull << 30)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct entry_table *table = NULL;
    struct error *error = NULL;
    struct buffer encoded = { 0 };
    if (entry_table_decode(&table, data, length, STREAM_LENGTH, &error) < 0) {
        expect_error(error);
        error_free(error);
        return 0;
    }
    EXPECT_SUCCESS(entry_table_encode(table, &encoded, &error));
    EXPECT(encoded.length == length && memcmp(encoded.data, data, length) == 0);
    struct merge_layer layer = { table, STREAM_LENGTH, { { 1 } } };
    (void)merge_and_rebuild(&layer, 1);
    buffer_free(&encoded);
    entry_table_free(table);
    return 0;
}
