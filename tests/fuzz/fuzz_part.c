/*
 * Fed: the blob of a part of an index, and what its descriptor claims of it.
 *
 * Holds: in pieces of any size or at once, decoded to its end it is just the
 * bytes that have the claimed size and digest, or it is refused; memory does
 * not follow what a frame claims; what we compress decodes to itself.
 */
#include <zstd.h>

#include "index/part_decoder.h"
#include "tests/fuzz/fuzz.h"

#define CONTENT_MAX (1u << 20)

static int keep(void *context, const void *data, size_t length, struct error **error)
{
    struct buffer *content = context;
    (void)error;
    return buffer_append(content, data, length);
}

/* True: it is accepted, and `ret` is its content. */
static bool decode(const struct index_part *part, const uint8_t *data, size_t length, size_t piece,
                   struct buffer *ret)
{
    struct part_decoder *decoder = NULL;
    struct error *error = NULL;
    int status = part_decoder_new(&decoder, part, keep, ret, NULL, &error);
    for (size_t at = 0; status == 0 && at < length; at += piece)
        status = part_decoder_feed(decoder, data + at, length - at < piece ? length - at : piece,
                                   &error);
    EXPECT(ret->length <= part->content_size);
    if (status == 0) status = part_decoder_finish(decoder, &error);
    if (status < 0) expect_error(error);
    part_decoder_free(decoder);
    error_free(error);
    return status == 0;
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
    EXPECT(decode(&part, blob.data, blob.length, SIZE_MAX / 2, &content));
    EXPECT(content.length == length && memcmp(content.data, data, length) == 0);
    buffer_free(&blob);
    buffer_free(&content);
}

static void check_hostile(const uint8_t *data, size_t length, uint64_t claimed, size_t piece)
{
    static uint8_t expected[CONTENT_MAX];
    struct buffer whole = { 0 }, pieces = { 0 };
    struct index_part part = { .size = length };
    size_t got = ZSTD_decompress(expected, sizeof expected, data, length);
    if (ZSTD_isError(got)) got = 0;
    part.content_size = claimed % 2 ? got : claimed / 2;
    digest_of(data, length, &part.digest);
    digest_of(expected, got, &part.content_digest);
    bool accepted = decode(&part, data, length, SIZE_MAX / 2, &whole);
    EXPECT(accepted == decode(&part, data, length, piece, &pieces));
    if (accepted) {
        EXPECT(whole.length == got && memcmp(whole.data, expected, got) == 0);
        EXPECT(equal_buffers(&whole, &pieces));
    }
    buffer_free(&whole);
    buffer_free(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    size_t piece = 1 + (size_t)take_number(&data, &length, 1);
    uint64_t claimed = take_number(&data, &length, 2);
    if (length == 0) return 0;
    check_round_trip(data, length);
    check_hostile(data, length, claimed, piece);
    return 0;
}
