/*
 * Fed: the blob of a part of an index, and what its descriptor claims of it.
 *
 * Holds: it expands to bytes that have the claimed size and digest, or is
 * refused; what we compress expands to itself.
 */
#include <zstd.h>

#include "index/part_decoder.h"
#include "tests/fuzz/fuzz.h"

#define CONTENT_MAX (1u << 20)

static int collect(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

/* In two pieces that meet anywhere. */
static int expand(const struct index_part *part, const uint8_t *data, size_t length,
                  struct buffer *ret, struct error **error)
{
    struct part_decoder *decoder;
    if (part_decoder_new(&decoder, part, collect, ret, error) < 0) return -1;
    size_t first = length ? data[length - 1] * length / 256 : 0;
    int result = part_decoder_feed(decoder, data, first, error);
    if (result == 0) result = part_decoder_feed(decoder, data + first, length - first, error);
    if (result == 0) result = part_decoder_finish(decoder, error);
    part_decoder_free(decoder);
    return result;
}

static void check_round_trip(const uint8_t *data, size_t length)
{
    struct buffer blob = { 0 }, content = { 0 };
    struct error *error = NULL;
    struct index_part part = { .content_size = length };
    EXPECT_SUCCESS(index_part_compress(data, length, &blob, &error));
    part.size = blob.length;
    digest_of(blob.data, blob.length, &part.digest);
    digest_of(data, length, &part.content_digest);
    EXPECT_SUCCESS(expand(&part, blob.data, blob.length, &content, &error));
    EXPECT(content.length == length && (length == 0 || memcmp(content.data, data, length) == 0));
    buffer_free(&blob);
    buffer_free(&content);
}

static void check_hostile(const uint8_t *data, size_t length, uint64_t claimed)
{
    static uint8_t expected[CONTENT_MAX];
    struct buffer content = { 0 };
    struct error *error = NULL;
    struct index_part part = { .size = length };
    size_t got = ZSTD_decompress(expected, sizeof expected, data, length);
    if (ZSTD_isError(got)) got = 0;
    part.content_size = claimed % 2 ? got : claimed / 2;
    digest_of(data, length, &part.digest);
    digest_of(expected, got, &part.content_digest);
    if (expand(&part, data, length, &content, &error) == 0)
        EXPECT(content.length == got && memcmp(content.data, expected, got) == 0);
    else
        expect_error(error);
    buffer_free(&content);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    uint64_t claimed = take_number(&data, &length, 3);
    if (length == 0) return 0;
    check_round_trip(data, length);
    check_hostile(data, length, claimed);
    return 0;
}
