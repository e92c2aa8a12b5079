/*
 * Fed: a layer's blob as a registry sends it: gzip, zstd or plain tar, whole.
 *
 * Holds: it is scanned or refused with a reason; in pieces of any size the
 * tables are the same; they survive their own formats; and each chunk, decoded
 * alone from its checkpoint, gives what the table says, so that together they
 * have the stream's digest.
 */
#include "index/chunk_decoder.h"
#include "index/layer_scan.h"
#include "tests/fuzz/fuzz.h"

struct source {
    const uint8_t *data;
    size_t length, position, piece;
};

static ssize_t read_source(void *context, void *data, size_t capacity, struct error **error)
{
    struct source *source = context;
    (void)error;
    size_t count = source->length - source->position;
    if (count > capacity) count = capacity;
    if (count > source->piece) count = source->piece;
    if (count) memcpy(data, source->data + source->position, count);
    source->position += count;
    return (ssize_t)count;
}

static int scan(const uint8_t *data, size_t length, size_t piece, struct layer_tables *ret,
                struct error **error)
{
    struct source source = { data, length, 0, piece };
    struct digest digest;
    *ret = (struct layer_tables){ 0 };
    digest_of(data, length, &digest);
    return layer_scan(read_source, &source, length, &digest, NULL, ret, error);
}

struct output {
    struct digest_stream *hash;
    uint64_t length;
};

static int hash_chunk(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    struct output *output = context;
    (void)chunk;
    digest_stream_update(output->hash, data, length);
    output->length += length;
    free(data);
    return 0;
}

static void decode_run(const uint8_t *blob, const struct layer_tables *tables, uint32_t first,
                       uint32_t last, struct output *output)
{
    const struct chunk_table *table = tables->chunks;
    const struct chunk *chunk = &table->chunks[first];
    uint8_t window[GZIP_WINDOW_LENGTH];
    struct error *error = NULL;
    uint64_t offset, length;
    if (chunk->start == CHUNK_WINDOW) {
        const struct window_group *group = &table->groups[chunk->window / WINDOWS_PER_GROUP];
        EXPECT_SUCCESS(window_group_extract(table, chunk->window,
                                            tables->windows.data + group->offset, group->length,
                                            window, &error));
    }
    struct chunk_decoder *decoder =
        chunk_decoder_new(table, first, last, chunk->start == CHUNK_WINDOW ? window : NULL,
                          hash_chunk, output, &error);
    EXPECT(decoder);
    chunk_table_blob_range(table, first, last, &offset, &length);
    EXPECT(offset + length <= table->blob_length);
    EXPECT_SUCCESS(chunk_decoder_feed(decoder, blob + offset, (size_t)length, &error));
    EXPECT_SUCCESS(chunk_decoder_finish(decoder, &error));
    chunk_decoder_free(decoder);
}

static void check_chunks(const uint8_t *blob, const struct layer_tables *tables)
{
    const struct chunk_table *table = tables->chunks;
    struct output output = { .hash = digest_stream_new() };
    struct digest digest;
    EXPECT(output.hash);
    for (uint32_t first = 0, last; first < table->chunk_count; first = last + 1) {
        for (last = first; last + 1 < table->chunk_count; last++)
            if (table->chunks[last + 1].start != CHUNK_CONTINUES) break;
        decode_run(blob, tables, first, last, &output);
    }
    digest_stream_finish(output.hash, &digest);
    digest_stream_free(output.hash);
    EXPECT(output.length == table->stream_length);
    EXPECT(digest_equal(&digest, &table->stream_digest));
}

static void encode(const struct layer_tables *tables, struct buffer *ret_chunks,
                   struct buffer *ret_entries)
{
    struct error *error = NULL;
    EXPECT_SUCCESS(chunk_table_encode(tables->chunks, ret_chunks, &error));
    EXPECT_SUCCESS(entry_table_encode(tables->entries, ret_entries, &error));
}

static void check_formats(const struct buffer *chunks, const struct buffer *entries,
                          uint64_t stream_length)
{
    struct chunk_table *chunk_table = NULL;
    struct entry_table *entry_table = NULL;
    struct error *error = NULL;
    EXPECT_SUCCESS(chunk_table_decode(&chunk_table, chunks->data, chunks->length, &error));
    EXPECT_SUCCESS(
        entry_table_decode(&entry_table, entries->data, entries->length, stream_length, &error));
    chunk_table_free(chunk_table);
    entry_table_free(entry_table);
}

static void check(const uint8_t *data, size_t length, const struct layer_tables *whole,
                  const struct layer_tables *pieces)
{
    struct buffer chunks[2] = { 0 }, entries[2] = { 0 };
    encode(whole, &chunks[0], &entries[0]);
    encode(pieces, &chunks[1], &entries[1]);
    EXPECT(equal_buffers(&chunks[0], &chunks[1]) && equal_buffers(&entries[0], &entries[1]));
    EXPECT(equal_buffers(&whole->windows, &pieces->windows));
    EXPECT(whole->chunks->blob_length == length);
    check_formats(&chunks[0], &entries[0], whole->chunks->stream_length);
    check_chunks(data, whole);
    for (size_t i = 0; i < 2; i++) {
        buffer_free(&chunks[i]);
        buffer_free(&entries[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct layer_tables whole, pieces;
    struct error *error = NULL, *other_error = NULL;
    size_t piece = (size_t)take_number(&data, &length, 1) * 8 + 1;
    int status = scan(data, length, SIZE_MAX, &whole, &error);
    EXPECT(status == scan(data, length, piece, &pieces, &other_error));
    if (status == 0)
        check(data, length, &whole, &pieces);
    else
        expect_error(error);
    layer_tables_free(&whole);
    layer_tables_free(&pieces);
    error_free(error);
    error_free(other_error);
    return 0;
}
