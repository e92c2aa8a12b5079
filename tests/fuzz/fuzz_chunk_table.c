/*
 * Fed: a layer's chunk table, as an index carries it.
 *
 * Holds: what is accepted is what the encoder writes, to the byte; every chunk
 * can be found, and is decoded from a checkpoint before it and from bytes
 * inside the blob; groups of windows lie one behind the other.
 */
#include "index/chunk_table.h"
#include "tests/fuzz/fuzz.h"

static void check_chunk(const struct chunk_table *table, uint32_t i, uint32_t *windows)
{
    const struct chunk *chunk = &table->chunks[i];
    uint64_t offset, length;
    EXPECT(chunk_length(table, i) > 0 && chunk_length(table, i) <= CHUNK_LENGTH_MAX);
    EXPECT(chunk_table_find(table, chunk->stream_offset) == i);
    EXPECT(chunk_table_find(table, chunk->stream_offset + chunk_length(table, i) - 1) == i);
    uint32_t checkpoint = chunk_table_checkpoint(table, i);
    EXPECT(checkpoint <= i && table->chunks[checkpoint].start != CHUNK_CONTINUES);
    chunk_table_blob_range(table, checkpoint, i, &offset, &length);
    EXPECT(length > 0 && offset < table->blob_length && length <= table->blob_length - offset);
    if (chunk->start != CHUNK_WINDOW) return;
    EXPECT(table->kind == LAYER_GZIP && chunk->bits < 8);
    EXPECT(chunk->window == (*windows)++);
    EXPECT(chunk->window / WINDOWS_PER_GROUP < table->group_count);
}

/* The answers to nonsense: an error, and nothing read behind the group. */
static void extract_windows(const struct chunk_table *table)
{
    static uint8_t group[64], window[GZIP_WINDOW_LENGTH];
    struct error *error = NULL;
    if (table->window_count == 0) return;
    EXPECT(window_group_extract(table, table->window_count - 1, group, sizeof group, window,
                                &error) < 0);
    expect_error(error);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct chunk_table *table = NULL;
    struct error *error = NULL;
    struct buffer encoded = { 0 };
    if (chunk_table_decode(&table, data, length, &error) < 0) {
        expect_error(error);
        error_free(error);
        return 0;
    }
    uint32_t windows = 0;
    uint64_t windows_end = 0;
    for (uint32_t i = 0; i < table->chunk_count; i++)
        check_chunk(table, i, &windows);
    EXPECT(windows == table->window_count);
    for (uint32_t i = 0; i < table->group_count; i++) {
        EXPECT(table->groups[i].offset == windows_end && table->groups[i].length > 0);
        windows_end += table->groups[i].length;
    }
    EXPECT(windows_end == table->windows_length);
    extract_windows(table);
    EXPECT_SUCCESS(chunk_table_encode(table, &encoded, &error));
    EXPECT(encoded.length == length && memcmp(encoded.data, data, length) == 0);
    buffer_free(&encoded);
    chunk_table_free(table);
    return 0;
}
