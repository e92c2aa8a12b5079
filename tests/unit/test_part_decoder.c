/* Parts of an index as they arrive: decoded exactly, or refused without taking memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/buffer.h"
#include "index/part_decoder.h"

/* Long enough for a thread that hashes. */
#define CONTENT_LENGTH 1500000u

struct fixture {
    uint8_t content[CONTENT_LENGTH];
    struct buffer blob;
    struct index_part part;
};

static void describe(struct fixture *fixture)
{
    fixture->part.size = fixture->blob.length;
    fixture->part.content_size = CONTENT_LENGTH;
    digest_of(fixture->blob.data, fixture->blob.length, &fixture->part.digest);
    digest_of(fixture->content, CONTENT_LENGTH, &fixture->part.content_digest);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture) return -1;
    /* Runs and noise, so that the frame has blocks of several kinds. */
    uint32_t noise = 1;
    for (size_t i = 0; i < CONTENT_LENGTH; i++) {
        noise = noise * 1664525u + 1013904223u;
        fixture->content[i] = i / 100000 % 2 ? (uint8_t)(noise >> 24) : (uint8_t)(i / 9);
    }
    if (index_part_compress(fixture->content, CONTENT_LENGTH, &fixture->blob, NULL) < 0) return -1;
    describe(fixture);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    buffer_free(&fixture->blob);
    free(fixture);
    return 0;
}

static int collect(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

/* Feeds the blob in pieces; 0 where the part is good. */
static int decode(const struct fixture *fixture, size_t piece, struct buffer *ret)
{
    struct part_decoder *decoder;
    assert_int_equal(part_decoder_new(&decoder, &fixture->part, collect, ret, NULL, NULL), 0);
    int result = 0;
    for (size_t at = 0; at < fixture->blob.length && result == 0; at += piece) {
        size_t left = fixture->blob.length - at;
        result =
            part_decoder_feed(decoder, fixture->blob.data + at, left < piece ? left : piece, NULL);
    }
    if (result == 0) result = part_decoder_finish(decoder, NULL);
    part_decoder_free(decoder);
    return result;
}

static void pieces_of_any_size_give_the_content(void **state)
{
    static const size_t pieces[] = { 1, 7, 4096, 131072, 1 << 20 };
    const struct fixture *fixture = *state;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        cleanup_buffer struct buffer out = { 0 };
        assert_int_equal(decode(fixture, pieces[i], &out), 0);
        assert_int_equal(out.length, CONTENT_LENGTH);
        assert_memory_equal(out.data, fixture->content, CONTENT_LENGTH);
    }
}

/* A place that can be read, and that perhaps does not keep what it is given. */
struct store {
    uint8_t bytes[CONTENT_LENGTH];
    size_t length;
    size_t damaged_at; /* this byte is kept wrong */
    size_t full_at;    /* more than this is refused */
};

static int store(void *context, const void *data, size_t length, struct error **error)
{
    struct store *store = context;
    if (length > store->full_at - store->length) return error_set(error, ERROR_SYSTEM, "no room");
    memcpy(store->bytes + store->length, data, length);
    if (store->damaged_at - store->length < length) store->bytes[store->damaged_at] ^= 1;
    store->length += length;
    return 0;
}

static int decode_into(const struct fixture *fixture, struct store *to)
{
    struct part_decoder *decoder;
    assert_int_equal(part_decoder_new(&decoder, &fixture->part, store, to, to->bytes, NULL), 0);
    int result = part_decoder_feed(decoder, fixture->blob.data, fixture->blob.length, NULL);
    if (result == 0) result = part_decoder_finish(decoder, NULL);
    part_decoder_free(decoder);
    return result;
}

static void what_is_verified_is_what_was_stored(void **state)
{
    const struct fixture *fixture = *state;
    const struct store good = { .damaged_at = CONTENT_LENGTH, .full_at = CONTENT_LENGTH };
    struct store *to = malloc(sizeof *to);
    assert_non_null(to);
    *to = good;
    assert_int_equal(decode_into(fixture, to), 0);
    assert_memory_equal(to->bytes, fixture->content, CONTENT_LENGTH);
    static const size_t places[] = { 0, CONTENT_LENGTH / 2, CONTENT_LENGTH - 1 };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        *to = good;
        to->damaged_at = places[i];
        assert_int_equal(decode_into(fixture, to), -1);
        *to = good;
        to->full_at = places[i];
        assert_int_equal(decode_into(fixture, to), -1);
    }
    free(to);
}

static void expect_refused(const struct fixture *fixture)
{
    cleanup_buffer struct buffer out = { 0 };
    assert_int_equal(decode(fixture, 5000, &out), -1);
    assert_true(out.length <= fixture->part.content_size);
}

static void sizes_and_digests_must_be_right(void **state)
{
    struct fixture *fixture = *state;
    const struct index_part honest = fixture->part;
    fixture->part.content_size++;
    expect_refused(fixture);
    fixture->part.content_size -= 2;
    expect_refused(fixture);
    fixture->part = honest;
    fixture->part.size++;
    expect_refused(fixture);
    fixture->part.size -= 2;
    expect_refused(fixture);
    fixture->part = honest;
    fixture->part.digest.bytes[0] ^= 1;
    expect_refused(fixture);
    fixture->part = honest;
    fixture->part.content_digest.bytes[31] ^= 1;
    expect_refused(fixture);
}

static void damaged_blobs_are_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture->blob.data[fixture->blob.length / 2] ^= 1;
    expect_refused(fixture);
    describe(fixture); /* whoever makes an index can compute its digests */
    fixture->blob.length /= 2;
    describe(fixture);
    expect_refused(fixture);
}

static void only_one_frame_is_taken(void **state)
{
    static const uint8_t empty_skippable[] = { 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0 };
    struct fixture *fixture = *state;
    buffer_append(&fixture->blob, empty_skippable, sizeof empty_skippable);
    describe(fixture);
    expect_refused(fixture);
    fixture->blob.length -= sizeof empty_skippable;
    buffer_append_u8(&fixture->blob, 0);
    describe(fixture);
    expect_refused(fixture);
}

/* A window of 128 MiB would have to be held in memory. */
static void frames_with_a_large_window_are_refused(void **state)
{
    struct fixture *fixture = *state;
    ZSTD_CCtx *compressor = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(compressor, ZSTD_c_windowLog, 27);
    ZSTD_CCtx_setParameter(compressor, ZSTD_c_contentSizeFlag, 0);
    fixture->blob.length = 0;
    buffer_reserve(&fixture->blob, ZSTD_compressBound(CONTENT_LENGTH));
    ZSTD_inBuffer input = { fixture->content, CONTENT_LENGTH, 0 };
    ZSTD_outBuffer output = { fixture->blob.data, fixture->blob.capacity, 0 };
    while (ZSTD_compressStream2(compressor, &output, &input, ZSTD_e_continue) > 0 &&
           input.pos < input.size)
        continue;
    assert_int_equal(ZSTD_compressStream2(compressor, &output, &input, ZSTD_e_end), 0);
    ZSTD_freeCCtx(compressor);
    fixture->blob.length = output.pos;
    describe(fixture);
    expect_refused(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces_of_any_size_give_the_content, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_verified_is_what_was_stored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sizes_and_digests_must_be_right, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_blobs_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_one_frame_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(frames_with_a_large_window_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
