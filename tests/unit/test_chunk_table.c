/* The chunk table's format: what the encoder writes is read back, everything else is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "index/chunk_table.h"

static struct chunk_table *gzip_table(void)
{
    struct chunk_table *table = calloc(1, sizeof *table);
    table->kind = LAYER_GZIP;
    table->blob_length = 1000;
    table->stream_length = 5000;
    table->chunk_count = 4;
    table->chunks = calloc(4, sizeof *table->chunks);
    table->groups = calloc(1, sizeof *table->groups);
    table->group_count = 1;
    table->window_count = 2;
    table->windows_length = table->groups[0].length = 77;
    const struct chunk chunks[] = {
        { .stream_offset = 0, .blob_offset = 0, .start = CHUNK_FRAME },
        { .stream_offset = 1500, .blob_offset = 300, .start = CHUNK_WINDOW, .bits = 5 },
        { .stream_offset = 2000, .blob_offset = 300, .start = CHUNK_CONTINUES },
        { .stream_offset = 4000, .blob_offset = 900, .start = CHUNK_WINDOW, .window = 1 },
    };
    memcpy(table->chunks, chunks, sizeof chunks);
    for (size_t i = 0; i < 4; i++)
        digest_of(&i, sizeof i, &table->chunks[i].digest);
    return table;
}

static void encoded_table_is_read_back(void **state)
{
    (void)state;
    struct chunk_table *table = gzip_table(), *read = NULL;
    cleanup_buffer struct buffer text = { 0 }, again = { 0 };
    assert_int_equal(chunk_table_encode(table, &text, NULL), 0);
    assert_int_equal(chunk_table_decode(&read, text.data, text.length, NULL), 0);
    assert_int_equal(chunk_table_encode(read, &again, NULL), 0);
    assert_int_equal(text.length, again.length);
    assert_memory_equal(text.data, again.data, text.length);
    assert_int_equal(read->window_count, 2);
    assert_int_equal(read->chunks[3].window, 1);
    assert_int_equal(read->windows_length, 77);
    chunk_table_free(table);
    chunk_table_free(read);
}

static void places_are_found(void **state)
{
    (void)state;
    struct chunk_table *table = gzip_table();
    uint64_t offset, length;
    assert_int_equal(chunk_table_find(table, 0), 0);
    assert_int_equal(chunk_table_find(table, 1499), 0);
    assert_int_equal(chunk_table_find(table, 1500), 1);
    assert_int_equal(chunk_table_find(table, 4999), 3);
    assert_int_equal(chunk_table_checkpoint(table, 2), 1);
    assert_int_equal(chunk_length(table, 3), 1000);
    /* The byte in which the next block starts belongs to both. */
    chunk_table_blob_range(table, 0, 0, &offset, &length);
    assert_int_equal(offset, 0);
    assert_int_equal(length, 301);
    chunk_table_blob_range(table, 1, 1, &offset, &length);
    assert_int_equal(offset, 300);
    assert_int_equal(length, 600);
    chunk_table_blob_range(table, 1, 3, &offset, &length);
    assert_int_equal(length, 700);
    chunk_table_free(table);
}

static void expect_refused(void (*spoil)(struct chunk_table *))
{
    struct chunk_table *table = gzip_table(), *read = NULL;
    cleanup_buffer struct buffer text = { 0 };
    struct error *error = NULL;
    spoil(table);
    assert_int_equal(chunk_table_encode(table, &text, NULL), 0);
    assert_int_equal(chunk_table_decode(&read, text.data, text.length, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    error_free(error);
    chunk_table_free(table);
}

static void spoil_first(struct chunk_table *table)
{
    table->chunks[0].blob_offset = 1;
}
static void spoil_order(struct chunk_table *table)
{
    table->chunks[3].blob_offset = 300; /* a checkpoint where another one is */
}
static void spoil_continues(struct chunk_table *table)
{
    table->chunks[2].blob_offset = 301;
}
static void spoil_outside(struct chunk_table *table)
{
    table->chunks[3].blob_offset = 1000;
}
static void spoil_length(struct chunk_table *table)
{
    table->stream_length = 4000 + CHUNK_LENGTH_MAX + 1;
}
static void spoil_empty(struct chunk_table *table)
{
    table->chunks[2].stream_offset = 1500;
}
static void spoil_kind(struct chunk_table *table)
{
    table->kind = LAYER_ZSTD; /* which has no windows */
}
static void spoil_window(struct chunk_table *table)
{
    table->decoder_window = 1 << 20; /* which gzip has not */
}
static void make_zstd(struct chunk_table *table)
{
    table->kind = LAYER_ZSTD;
    table->group_count = 0;
    table->chunks[1].start = table->chunks[3].start = CHUNK_FRAME;
    table->chunks[1].bits = 0;
}
static void spoil_zstd_without_window(struct chunk_table *table)
{
    make_zstd(table);
}
static void spoil_odd_window(struct chunk_table *table)
{
    make_zstd(table);
    table->decoder_window = 3 << 20;
}
static void spoil_large_window(struct chunk_table *table)
{
    make_zstd(table);
    table->decoder_window = 2 * CHUNK_DECODER_WINDOW_MAX;
}
static void spoil_groups(struct chunk_table *table)
{
    table->group_count = 0;
}

static void broken_rules_are_refused(void **state)
{
    (void)state;
    expect_refused(spoil_first);
    expect_refused(spoil_order);
    expect_refused(spoil_continues);
    expect_refused(spoil_outside);
    expect_refused(spoil_length);
    expect_refused(spoil_empty);
    expect_refused(spoil_kind);
    expect_refused(spoil_groups);
    expect_refused(spoil_window);
    expect_refused(spoil_zstd_without_window);
    expect_refused(spoil_odd_window);
    expect_refused(spoil_large_window);
}

static void cut_and_longer_tables_are_refused(void **state)
{
    (void)state;
    struct chunk_table *table = gzip_table(), *read = NULL;
    cleanup_buffer struct buffer text = { 0 };
    assert_int_equal(chunk_table_encode(table, &text, NULL), 0);
    for (size_t length = 0; length < text.length; length++) {
        /* In memory of its own size, so that the address sanitizer sees a read behind it. */
        uint8_t *cut = malloc(length ? length : 1);
        memcpy(cut, text.data, length);
        assert_int_equal(chunk_table_decode(&read, cut, length, NULL), -1);
        free(cut);
    }
    buffer_append_u8(&text, 0);
    assert_int_equal(chunk_table_decode(&read, text.data, text.length, NULL), -1);
    chunk_table_free(table);
}

static void counts_do_not_make_memory(void **state)
{
    (void)state;
    struct chunk_table *table = gzip_table(), *read = NULL;
    cleanup_buffer struct buffer text = { 0 };
    assert_int_equal(chunk_table_encode(table, &text, NULL), 0);
    memset(text.data + 8 + 4 + 4 + 4 + 8 + 8 + 32 + 32, 0xff, 4); /* the count of chunks */
    assert_int_equal(chunk_table_decode(&read, text.data, text.length, NULL), -1);
    chunk_table_free(table);
}

static void windows_come_out_of_their_group(void **state)
{
    (void)state;
    struct chunk_table *table = gzip_table();
    uint8_t *windows = calloc(2, GZIP_WINDOW_LENGTH), out[GZIP_WINDOW_LENGTH];
    uint8_t packed[4096];
    windows[GZIP_WINDOW_LENGTH + 7] = 42;
    size_t length = ZSTD_compress(packed, sizeof packed, windows, 2 * GZIP_WINDOW_LENGTH, 3);
    table->groups[0].length = (uint32_t)length;
    digest_of(packed, length, &table->groups[0].digest);
    assert_int_equal(window_group_extract(table, 1, packed, length, out, NULL), 0);
    assert_int_equal(out[7], 42);
    packed[length / 2] ^= 1;
    assert_int_equal(window_group_extract(table, 1, packed, length, out, NULL), -1);
    free(windows);
    chunk_table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoded_table_is_read_back),
        cmocka_unit_test(places_are_found),
        cmocka_unit_test(broken_rules_are_refused),
        cmocka_unit_test(cut_and_longer_tables_are_refused),
        cmocka_unit_test(counts_do_not_make_memory),
        cmocka_unit_test(windows_come_out_of_their_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
