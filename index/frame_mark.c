#include "index/frame_mark.h"

#include <string.h>

/* Skippable frame number 7, 12 bytes; our name; version 1. */
const uint8_t frame_mark[FRAME_MARK_LENGTH] = {
    0x57, 0x2a, 0x4d, 0x18, 12,  0,   0,   0,   /* header */
    'S',  'L',  'U',  'I',  'C', 'E', 'Z', 'F', /* */
    1,    0,    0,    0,
};

bool frame_mark_feed(struct frame_mark_reader *reader, const uint8_t *data, size_t length)
{
    if (length == 0) return false;
    if (reader->other || length > FRAME_MARK_LENGTH - reader->count ||
        memcmp(frame_mark + reader->count, data, length) != 0) {
        reader->other = true;
        return false;
    }
    reader->count += length;
    return reader->count == FRAME_MARK_LENGTH;
}
