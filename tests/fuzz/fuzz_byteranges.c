/*
 * Fed: how long the pieces are in which an answer arrives, the parameters of its Content-Type, and
 * its body.
 *
 * Holds: what is found does not depend on the pieces; each part has as many bytes as it says, and
 * they lie in the body one part after the other.
 */
#include "fetcher/byteranges-internal.h"
#include "tests/fuzz/fuzz.h"

struct found {
    struct part {
        uint64_t first, last, at; /* `at`: where the part's bytes begin in the body */
    } parts[16];
    size_t count;
    enum byteranges_event last;
};

static void parse(const char *parameters, const uint8_t *body, size_t length, size_t piece,
                  struct found *found)
{
    struct byteranges parser;
    struct error *error = NULL;
    const uint8_t *data = body, *end = body + length, *bytes;
    uint64_t left = 0;
    size_t piece_left = 0, count;
    *found = (struct found){ .last = BYTERANGES_WRONG };
    if (byteranges_begin(&parser, parameters, &error) < 0) {
        expect_error(error);
        error_free(error);
        return;
    }
    found->last = BYTERANGES_MORE;
    while (data < end) {
        if (piece_left == 0)
            piece_left = (size_t)(end - data) < piece ? (size_t)(end - data) : piece;
        const uint8_t *before = data;
        found->last = byteranges_next(&parser, &data, &piece_left, &bytes, &count, &error);
        EXPECT(data > before && data <= end);
        if (found->last == BYTERANGES_PART) {
            EXPECT(left == 0 && parser.first <= parser.last);
            left = parser.last - parser.first + 1;
            if (found->count < 16)
                found->parts[found->count++] =
                    (struct part){ parser.first, parser.last, (uint64_t)(data - body) };
        } else if (found->last == BYTERANGES_BYTES) {
            EXPECT(count > 0 && count <= left && bytes >= before && bytes + count == data);
            left -= count;
        } else if (found->last != BYTERANGES_MORE) {
            EXPECT(left == 0);
            break;
        }
    }
    if (found->last == BYTERANGES_WRONG) expect_error(error);
    if (found->last == BYTERANGES_BYTES || found->last == BYTERANGES_PART)
        found->last = BYTERANGES_MORE;
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct found whole, pieces;
    size_t piece = 1 + take_number(&data, &length, 1);
    size_t text = strnlen((const char *)data, length);
    char *parameters = text_of_bytes(data, text);
    data += text < length ? text + 1 : text;
    length -= text < length ? text + 1 : text;
    parse(parameters, data, length, SIZE_MAX, &whole);
    parse(parameters, data, length, piece, &pieces);
    EXPECT(whole.last == pieces.last && whole.count == pieces.count);
    EXPECT(memcmp(whole.parts, pieces.parts, sizeof whole.parts) == 0);
    free(parameters);
    return 0;
}
