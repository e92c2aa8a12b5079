/*
 * Fed: the header of a gzip member.
 *
 * Holds: in pieces of any size it ends at the same byte, or is refused, as at
 * once; and zlib sees it end there too. (Only one of us checks its checksum.)
 */
#include <zlib.h>

#include "index/gzip_member.h"
#include "tests/fuzz/fuzz.h"

static enum gzip_header_state feed(const uint8_t *data, size_t length, size_t piece,
                                   size_t *ret_end)
{
    struct gzip_header header = { 0 };
    enum gzip_header_state state = GZIP_HEADER_MORE;
    *ret_end = 0;
    for (size_t at = 0; at < length && state == GZIP_HEADER_MORE; at += piece) {
        size_t used = 0;
        state =
            gzip_header_feed(&header, data + at, length - at < piece ? length - at : piece, &used);
        *ret_end = at + used;
    }
    return state;
}

/* How much zlib takes for the header; 0: it refuses it, or wants more. */
static size_t end_by_zlib(const uint8_t *data, size_t length)
{
    z_stream stream = { 0 };
    gz_header header = { 0 };
    EXPECT(inflateInit2(&stream, 15 + 16) == Z_OK);
    EXPECT(inflateGetHeader(&stream, &header) == Z_OK);
    stream.next_in = (Bytef *)data;
    size_t end = 0;
    /* A byte at a time, so that nothing behind the header is taken. */
    while (end < length && !header.done) {
        stream.avail_in = 1;
        end++;
        if (inflate(&stream, Z_BLOCK) != Z_OK) break;
    }
    inflateEnd(&stream);
    return header.done == 1 ? end : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    size_t whole_end, pieces_end, piece = 1 + (size_t)take_number(&data, &length, 1) % 16;
    enum gzip_header_state whole = feed(data, length, SIZE_MAX / 2, &whole_end);
    enum gzip_header_state pieces = feed(data, length, piece, &pieces_end);
    EXPECT(whole == pieces);
    size_t zlib_end = end_by_zlib(data, length);
    if (whole == GZIP_HEADER_DONE) {
        EXPECT(whole_end == pieces_end && whole_end <= length);
        EXPECT(zlib_end == 0 || zlib_end == whole_end);
    } else {
        EXPECT(zlib_end == 0);
    }
    return 0;
}
