/*
 * Fed: what was asked of a blob, the status and headers of the answers, and the
 * sizes in which their bodies arrive.
 *
 * Holds: of an answer that is taken, just the bytes that were asked for are
 * kept, each once and in order, whatever the server sends besides.
 */
#include "fetcher/ranged-internal.h"
#include "tests/fuzz/fuzz.h"

/* Every byte tells where in the blob it is. */
static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 31 + (offset >> 8) * 7 + (offset >> 16));
}

struct asked {
    struct ranged ranged;
    struct request request;
    uint64_t next; /* the next byte that is to be kept */
};

static void keep(struct asked *asked, const uint8_t *bytes, size_t length)
{
    EXPECT(length <= asked->ranged.length);
    for (size_t i = 0; i < length; i++)
        EXPECT(bytes[i] == byte_at(asked->next++));
}

/* An answer's body in pieces, from the place on that the server said. */
static void take_body(struct asked *asked, uint64_t place, const uint8_t **data, size_t *length)
{
    uint8_t piece[512];
    for (unsigned pieces = (unsigned)take_number(data, length, 1) % 16; pieces > 0; pieces--) {
        size_t count = (size_t)take_number(data, length, 2) % sizeof piece, wanted = count;
        const uint8_t *bytes = piece;
        for (size_t i = 0; i < count; i++)
            piece[i] = byte_at(place++);
        ranged_trim(&asked->ranged, &bytes, &wanted);
        keep(asked, bytes, wanted);
        if (!ranged_advance(&asked->ranged, &asked->request, count)) return;
    }
}

static void answer(struct asked *asked, const uint8_t **data, size_t *length)
{
    struct answer *answer = &asked->request.exchange.answer;
    struct error *error = NULL;
    char text[41] = { 0 };
    uint8_t shape = (uint8_t)take_number(data, length, 1);
    answer->status = shape % 4 == 0 ? 200 : shape % 4 == 1 ? 204 : 206;
    answer->content_length = shape & 16 ? (int64_t)take_number(data, length, 2) : -1;
    if (shape & 32) {
        snprintf(text, sizeof text, "bytes %llu-%llu/*", (unsigned long long)asked->ranged.offset,
                 (unsigned long long)(asked->ranged.offset + asked->ranged.length - 1));
    } else {
        for (size_t i = 0; i < sizeof text - 1 && *length > 0; i++)
            if (!(text[i] = (char)take_number(data, length, 1))) break;
    }
    answer->content_range = shape & 64 ? text : NULL;
    if (ranged_begin(&asked->ranged, &asked->request, 0, &error) == 0)
        take_body(asked, answer->status == 206 ? asked->ranged.offset : 0, data, length);
    else
        expect_error(error);
    answer->content_range = NULL;
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct asked asked = { 0 };
    struct error *error = NULL;
    char registry[] = "registry.example.com";
    asked.request.registry = registry;
    asked.ranged.offset = asked.next = take_number(&data, &length, 2);
    asked.ranged.length = 1 + take_number(&data, &length, 2);
    uint64_t end = asked.ranged.offset + asked.ranged.length;
    for (unsigned attempts = 0; attempts < 5 && asked.ranged.length > 0; attempts++) {
        answer(&asked, &data, &length);
        EXPECT(asked.ranged.offset == asked.next && asked.next + asked.ranged.length == end);
    }
    int ended = ranged_end(&asked.ranged, &error);
    EXPECT((ended == 0) == (asked.next == end));
    if (ended < 0) expect_error(error);
    error_free(error);
    return 0;
}
