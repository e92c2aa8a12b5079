#include "index/gzip_member.h"

#include <stdbool.h>

/* RFC 1952, 2.3.1 */
enum {
    FLAG_HEADER_CHECKSUM = 2,
    FLAG_EXTRA = 4,
    FLAG_NAME = 8,
    FLAG_COMMENT = 16,
    FLAGS_RESERVED = 0xe0,
};

/* True when `byte` may stand at the header's position of the fixed part. */
static bool fixed_byte(struct gzip_header *header, uint8_t byte)
{
    switch (header->position) {
    case 0:
        return byte == 0x1f;
    case 1:
        return byte == 0x8b;
    case 2:
        return byte == 8; /* deflate */
    case 3:
        header->flags = byte;
        return (byte & FLAGS_RESERVED) == 0;
    default:
        return true; /* time, extra flags, operating system */
    }
}

/* Goes on to the next step that the flags ask for. True when there is none. */
static bool next_step(struct gzip_header *header)
{
    header->position = 0;
    switch (header->step) {
    case GZIP_FIXED:
        header->step = GZIP_EXTRA_LENGTH;
        if (header->flags & FLAG_EXTRA) return false;
        /* fall through */
    case GZIP_EXTRA_LENGTH:
        header->step = GZIP_EXTRA;
        if (header->extra_length) return false;
        /* fall through */
    case GZIP_EXTRA:
        header->step = GZIP_NAME;
        if (header->flags & FLAG_NAME) return false;
        /* fall through */
    case GZIP_NAME:
        header->step = GZIP_COMMENT;
        if (header->flags & FLAG_COMMENT) return false;
        /* fall through */
    case GZIP_COMMENT:
        header->step = GZIP_CHECKSUM;
        if (header->flags & FLAG_HEADER_CHECKSUM) return false;
        /* fall through */
    case GZIP_CHECKSUM:
        break;
    }
    return true;
}

enum gzip_header_state gzip_header_feed(struct gzip_header *header, const uint8_t *data,
                                        size_t length, size_t *ret_used)
{
    for (size_t i = 0; i < length; i++) {
        bool step_ends = false;
        uint8_t byte = data[i];
        switch (header->step) {
        case GZIP_FIXED:
            if (!fixed_byte(header, byte)) return GZIP_HEADER_INVALID;
            step_ends = header->position == 9;
            break;
        case GZIP_EXTRA_LENGTH:
            header->extra_length |= (uint32_t)byte << (8 * header->position);
            step_ends = header->position == 1;
            break;
        case GZIP_EXTRA:
            step_ends = header->position + 1 == header->extra_length;
            break;
        case GZIP_NAME:
        case GZIP_COMMENT:
            step_ends = byte == 0;
            break;
        case GZIP_CHECKSUM:
            step_ends = header->position == 1;
            break;
        }
        header->position++;
        if (step_ends && next_step(header)) {
            *ret_used = i + 1;
            return GZIP_HEADER_DONE;
        }
    }
    *ret_used = length;
    return GZIP_HEADER_MORE;
}
