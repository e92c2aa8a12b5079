/*
 * A layer is scanned as a stream, and then every chunk is decoded on its own
 * from its checkpoint: together they must give the stream back, for each way in
 * which a layer can be packed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "index/chunk_decoder.h"
#include "index/layer_scan.h"
#include "tests/unit/layer_packer.h"

#define FILE_LENGTH (9u << 20)

static void scan(const struct buffer *blob, size_t step, struct layer_tables *ret)
{
    struct memory_reader reader = { blob, 0, step };
    struct digest digest;
    struct error *error = NULL;
    digest_of(blob->data, blob->length, &digest);
    *ret = (struct layer_tables){ 0 };
    if (layer_scan(read_memory, &reader, blob->length, &digest, NULL, ret, &error) < 0)
        fail_msg("%s", error_message(error));
}

struct output {
    const struct buffer *stream;
    const struct chunk_table *table;
    uint64_t decoded;
};

static int compare_chunk(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    struct output *output = context;
    assert_memory_equal(data, output->stream->data + output->table->chunks[chunk].stream_offset,
                        length);
    output->decoded += length;
    free(data);
    return 0;
}

static void decode_run(const struct buffer *blob, const struct layer_tables *tables, uint32_t first,
                       uint32_t last, size_t step, struct output *output)
{
    const struct chunk_table *table = tables->chunks;
    uint8_t window[GZIP_WINDOW_LENGTH];
    const struct chunk *chunk = &table->chunks[first];
    uint64_t offset, length;
    if (chunk->start == CHUNK_WINDOW) {
        const struct window_group *group = &table->groups[chunk->window / WINDOWS_PER_GROUP];
        assert_int_equal(window_group_extract(table, chunk->window,
                                              tables->windows.data + group->offset, group->length,
                                              window, NULL),
                         0);
    }
    struct chunk_decoder *decoder =
        chunk_decoder_new(table, first, last, chunk->start == CHUNK_WINDOW ? window : NULL,
                          compare_chunk, output, NULL);
    assert_non_null(decoder);
    chunk_table_blob_range(table, first, last, &offset, &length);
    for (uint64_t done = 0; done < length; done += step) {
        struct error *error = NULL;
        size_t piece = length - done < step ? (size_t)(length - done) : step;
        if (chunk_decoder_feed(decoder, blob->data + offset + done, piece, &error) < 0)
            fail_msg("chunk %u: %s", first, error_message(error));
    }
    assert_int_equal(chunk_decoder_finish(decoder, NULL), 0);
    chunk_decoder_free(decoder);
}

/* Scans, checks that neither the table nor the windows depend on how the bytes come, and decodes
 * each checkpoint's chunks alone, then all in one run. */
static void check_layer(const struct buffer *stream, const struct buffer *blob,
                        uint32_t least_chunks)
{
    static const size_t steps[] = { 1 << 22, 4096, 777 };
    struct layer_tables tables, again;
    cleanup_buffer struct buffer one = { 0 }, two = { 0 };
    scan(blob, 1 << 20, &tables);
    scan(blob, 1009, &again);
    const struct chunk_table *table = tables.chunks;
    assert_int_equal(chunk_table_encode(table, &one, NULL), 0);
    assert_int_equal(chunk_table_encode(again.chunks, &two, NULL), 0);
    assert_int_equal(one.length, two.length);
    assert_memory_equal(one.data, two.data, one.length);
    layer_tables_free(&again);
    assert_int_equal(table->stream_length, stream->length);
    assert_true(table->chunk_count >= least_chunks);
    assert_int_equal(entry_table_count(tables.entries), 1);
    assert_int_equal(entry_table_get(tables.entries, 0)->data_offset, 512);

    struct output output = { stream, table, 0 };
    for (uint32_t first = 0, turn = 0; first < table->chunk_count; turn++) {
        uint32_t last = first;
        while (last + 1 < table->chunk_count && table->chunks[last + 1].start == CHUNK_CONTINUES)
            last++;
        decode_run(blob, &tables, first, last, steps[turn % 3], &output);
        first = last + 1;
    }
    assert_int_equal(output.decoded, stream->length);
    output.decoded = 0;
    decode_run(blob, &tables, 0, table->chunk_count - 1, 65536, &output);
    assert_int_equal(output.decoded, stream->length);
    layer_tables_free(&tables);
}

static struct buffer stream;

static int make_shared_stream(void **state)
{
    (void)state;
    layer_of_words(&stream, FILE_LENGTH, true);
    return 0;
}

static int free_shared_stream(void **state)
{
    (void)state;
    buffer_free(&stream);
    return 0;
}

static void plain_tar(void **state)
{
    (void)state;
    check_layer(&stream, &stream, 9);
}

static void one_gzip_member(void **state)
{
    (void)state;
    for (int level = 1; level <= 9; level += 4) {
        cleanup_buffer struct buffer blob = { 0 };
        gzip_append(&blob, stream.data, stream.length, level, Z_DEFAULT_STRATEGY);
        check_layer(&stream, &blob, 5);
    }
}

static void gzip_of_odd_kinds(void **state)
{
    (void)state;
    static const int strategies[] = { Z_HUFFMAN_ONLY, Z_RLE, Z_FIXED };
    for (size_t i = 0; i < 3; i++) {
        cleanup_buffer struct buffer blob = { 0 };
        gzip_append(&blob, stream.data, stream.length, 6, strategies[i]);
        check_layer(&stream, &blob, 3);
    }
    cleanup_buffer struct buffer stored = { 0 };
    gzip_append(&stored, stream.data, stream.length, 0, Z_DEFAULT_STRATEGY);
    check_layer(&stream, &stored, 5);
}

static void many_gzip_members_and_garbage(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    for (size_t done = 0, piece = 1; done < stream.length; done += piece, piece = piece * 3 + 1) {
        if (piece > 700000) piece = 1 + piece % 1000;
        if (piece > stream.length - done) piece = stream.length - done;
        gzip_append(&blob, stream.data + done, piece, 6, Z_DEFAULT_STRATEGY);
    }
    check_layer(&stream, &blob, 5);
    buffer_append(&blob, "\0\0\0\0 garbage behind the last member", 36);
    check_layer(&stream, &blob, 5);
}

static void many_zstd_frames(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    buffer_append(&blob, "\x5a\x2a\x4d\x18\x03\0\0\0abc", 11); /* a skippable frame */
    zstd_append(&blob, &stream, 300000);
    check_layer(&stream, &blob, 5);
}

static void one_zstd_frame(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    struct layer_tables tables;
    zstd_append(&blob, &stream, SIZE_MAX);
    check_layer(&stream, &blob, 3);
    scan(&blob, 1 << 20, &tables);
    for (uint32_t i = 1; i < tables.chunks->chunk_count; i++)
        assert_int_equal(tables.chunks->chunks[i].start, CHUNK_CONTINUES);
    layer_tables_free(&tables);
}

static uint32_t window_of(const struct buffer *blob, size_t step)
{
    struct layer_tables tables;
    scan(blob, step, &tables);
    uint32_t window = tables.chunks->decoder_window;
    layer_tables_free(&tables);
    return window;
}

static void the_largest_window_of_a_frame_is_noted(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 }, empty = { 0 }, whole = { 0 };
    zstd_append_frame(&blob, stream.data, 5120, 12);
    buffer_append(&blob, "\x5a\x2a\x4d\x18\x03\0\0\0abc", 11); /* a skippable frame */
    zstd_append_frame(&blob, stream.data + 5120, 10240, 21);
    zstd_append_frame(&blob, stream.data + 15360, stream.length - 15360, 16);
    assert_int_equal(window_of(&blob, 1 << 20), 1 << 21);
    assert_int_equal(window_of(&blob, 1), 1 << 21);
    check_layer(&stream, &blob, 3);
    /* A frame in one segment has no other window than its content. */
    layer_of_zeros(&empty, 0);
    zstd_append(&whole, &empty, SIZE_MAX);
    assert_int_equal(window_of(&whole, 3), 2048);
}

static void a_block_without_end_is_cut(void **state)
{
    (void)state;
    /* zlib writes one block for many megabytes of zeros. */
    cleanup_buffer struct buffer zeros = { 0 }, blob = { 0 };
    layer_of_zeros(&zeros, FILE_LENGTH);
    gzip_append(&blob, zeros.data, zeros.length, 9, Z_DEFAULT_STRATEGY);
    check_layer(&zeros, &blob, 3);
}

static void windows_are_sparse(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    struct layer_tables tables;
    gzip_append(&blob, stream.data, stream.length, 6, Z_DEFAULT_STRATEGY);
    scan(&blob, 1 << 20, &tables);
    uint8_t window[GZIP_WINDOW_LENGTH];
    size_t zeros = 0;
    assert_true(tables.chunks->window_count > 0);
    assert_int_equal(window_group_extract(tables.chunks, 0, tables.windows.data,
                                          tables.chunks->groups[0].length, window, NULL),
                     0);
    for (size_t i = 0; i < sizeof window; i++)
        zeros += window[i] == 0;
    assert_true(zeros > 0 && zeros < sizeof window);
    layer_tables_free(&tables);
}

static void expect_scan_error(const struct buffer *blob, const char *part)
{
    struct memory_reader reader = { blob, 0, 1 << 20 };
    struct layer_tables tables;
    struct digest digest;
    struct error *error = NULL;
    digest_of(blob->data, blob->length, &digest);
    assert_int_equal(layer_scan(read_memory, &reader, blob->length, &digest, NULL, &tables, &error),
                     -1);
    if (!strstr(error_message(error), part)) fail_msg("%s", error_message(error));
    error_free(error);
}

static void a_window_beyond_measure_is_refused(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    zstd_append_frame(&blob, stream.data, stream.length, 28);
    expect_scan_error(&blob, "memory");
}

static void damaged_blobs_are_refused(void **state)
{
    (void)state;
    cleanup_buffer struct buffer gzip = { 0 }, zstd = { 0 };
    gzip_append(&gzip, stream.data, stream.length, 6, Z_DEFAULT_STRATEGY);
    zstd_append(&zstd, &stream, SIZE_MAX);
    gzip.length /= 2;
    expect_scan_error(&gzip, "cut short");
    zstd.length /= 2;
    expect_scan_error(&zstd, "cut short");
    gzip.data[10] = 0x07; /* a block of the reserved type */
    expect_scan_error(&gzip, "gzip data at byte");
}

static void another_digest_is_refused(void **state)
{
    (void)state;
    struct memory_reader reader = { &stream, 0, 1 << 20 };
    struct layer_tables tables;
    struct digest right, wrong = { { 1 } };
    struct error *error = NULL;
    digest_of(stream.data, stream.length, &right);
    assert_int_equal(layer_scan(read_memory, &reader, stream.length, &wrong, NULL, &tables, &error),
                     -1);
    error_free(error);
    error = NULL;
    reader.position = 0;
    assert_int_equal(
        layer_scan(read_memory, &reader, stream.length, &right, &wrong, &tables, &error), -1);
    assert_non_null(strstr(error_message(error), "diffID"));
    error_free(error);
    reader.position = 0;
    assert_int_equal(
        layer_scan(read_memory, &reader, stream.length - 1, &right, NULL, &tables, NULL), -1);
}

static int count_chunk(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    (void)chunk;
    (void)length;
    free(data);
    ++*(unsigned *)context;
    return 0;
}

static void changed_bytes_are_never_handed_out(void **state)
{
    (void)state;
    cleanup_buffer struct buffer blob = { 0 };
    struct layer_tables tables;
    unsigned random = 7;
    gzip_append(&blob, stream.data, stream.length, 6, Z_DEFAULT_STRATEGY);
    scan(&blob, 1 << 20, &tables);
    for (unsigned round = 0; round < 200; round++) {
        uint64_t offset, length;
        unsigned chunks = 0;
        chunk_table_blob_range(tables.chunks, 0, 0, &offset, &length);
        uint8_t *bytes = malloc(length);
        memcpy(bytes, blob.data, length);
        random = random * 1103515245 + 12345;
        size_t place = 20 + random / 7 % (length - 40);
        bytes[place] ^= (uint8_t)(1u << (random >> 29));
        struct chunk_decoder *decoder =
            chunk_decoder_new(tables.chunks, 0, 0, NULL, count_chunk, &chunks, NULL);
        int result = chunk_decoder_feed(decoder, bytes, length, NULL);
        if (result == 0) result = chunk_decoder_finish(decoder, NULL);
        assert_int_equal(result, -1);
        assert_int_equal(chunks, 0);
        chunk_decoder_free(decoder);
        free(bytes);
    }
    layer_tables_free(&tables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_tar),
        cmocka_unit_test(one_gzip_member),
        cmocka_unit_test(gzip_of_odd_kinds),
        cmocka_unit_test(many_gzip_members_and_garbage),
        cmocka_unit_test(many_zstd_frames),
        cmocka_unit_test(one_zstd_frame),
        cmocka_unit_test(the_largest_window_of_a_frame_is_noted),
        cmocka_unit_test(a_window_beyond_measure_is_refused),
        cmocka_unit_test(a_block_without_end_is_cut),
        cmocka_unit_test(windows_are_sparse),
        cmocka_unit_test(damaged_blobs_are_refused),
        cmocka_unit_test(another_digest_is_refused),
        cmocka_unit_test(changed_bytes_are_never_handed_out),
    };
    return cmocka_run_group_tests(tests, make_shared_stream, free_shared_stream);
}
