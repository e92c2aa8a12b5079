/*
 * Fed: a tar stream. Its headers' checksums are put right first, so that what
 * is behind them is reached.
 *
 * Holds: in pieces of any size the stream gives the same entries, or the same
 * error, as at once; the entries survive their own format; and a layer of them,
 * alone or above itself, merges into an image that is accepted, or is refused
 * with a reason.
 */
#include "index/tar.h"
#include "tests/fuzz/merge_and_rebuild.h"
#include "tests/fuzz/tar_blocks.h"

/* NULL: refused, with the error in *ret_error. */
static struct entry_table *read_tar(const uint8_t *stream, size_t length, size_t piece,
                                    struct error **ret_error)
{
    struct entry_table *table = entry_table_new();
    struct tar_reader *reader = tar_reader_new(table);
    EXPECT(table && reader);
    int status = 0;
    for (size_t at = 0; status == 0 && at < length; at += piece)
        status = tar_reader_feed(reader, stream + at, length - at < piece ? length - at : piece,
                                 ret_error);
    if (status == 0) status = tar_reader_finish(reader, ret_error);
    tar_reader_free(reader);
    if (status == 0) return table;
    entry_table_free(table);
    return NULL;
}

static void check_format(const struct entry_table *table, uint64_t stream_length,
                         const struct buffer *encoded)
{
    struct entry_table *decoded = NULL;
    struct buffer again = { 0 };
    struct error *error = NULL;
    EXPECT_SUCCESS(
        entry_table_decode(&decoded, encoded->data, encoded->length, stream_length, &error));
    EXPECT(entry_table_count(decoded) == entry_table_count(table));
    EXPECT_SUCCESS(entry_table_encode(decoded, &again, &error));
    EXPECT(equal_buffers(encoded, &again));
    buffer_free(&again);
    entry_table_free(decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    size_t piece = (size_t)take_number(&data, &length, 1) * 4 + 1;
    uint8_t *stream = malloc(length + 1);
    struct error *error = NULL, *other_error = NULL;
    struct buffer encoded = { 0 }, other_encoded = { 0 };
    EXPECT(stream);
    memcpy(stream, data, length);
    seal_blocks(stream, length);
    struct entry_table *table = read_tar(stream, length, SIZE_MAX / 2, &error);
    struct entry_table *other = read_tar(stream, length, piece, &other_error);
    EXPECT(!table == !other);
    if (table) {
        EXPECT_SUCCESS(entry_table_encode(table, &encoded, &error));
        EXPECT_SUCCESS(entry_table_encode(other, &other_encoded, &error));
        EXPECT(equal_buffers(&encoded, &other_encoded));
        check_format(table, length, &encoded);
        struct merge_layer layers[2] = { { table, length, { { 1 } } },
                                         { other, length, { { 2 } } } };
        if (merge_and_rebuild(layers, 1)) (void)merge_and_rebuild(layers, 2);
    } else {
        expect_error(error);
        EXPECT(strcmp(error_message(error), error_message(other_error)) == 0);
    }
    buffer_free(&encoded);
    buffer_free(&other_encoded);
    entry_table_free(table);
    entry_table_free(other);
    error_free(error);
    error_free(other_error);
    free(stream);
    return 0;
}
