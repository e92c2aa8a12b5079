#include "index/zstd_header.h"

#include <endian.h>
#include <string.h>

#define MAGIC_LENGTH     4u
#define DESCRIPTOR       MAGIC_LENGTH /* position of the frame header descriptor */
#define SKIPPABLE_MAGIC  0x184d2a50u  /* and the fifteen numbers behind it */
#define SINGLE_SEGMENT   0x20u        /* the window is the content */
#define WINDOW_LOG_LEAST 10u

static uint32_t magic_of(const struct zstd_header *header)
{
    uint32_t magic;
    memcpy(&magic, header->bytes, sizeof magic);
    return le32toh(magic);
}

static size_t content_size_length(uint8_t descriptor)
{
    unsigned flag = descriptor >> 6;
    return flag ? (size_t)1 << flag : 1; /* of a single segment */
}

static size_t content_size_position(uint8_t descriptor)
{
    static const uint8_t dictionary_id_lengths[] = { 0, 1, 2, 4 };
    return DESCRIPTOR + 1 + dictionary_id_lengths[descriptor & 3];
}

static uint64_t content_size(const struct zstd_header *header)
{
    uint8_t descriptor = header->bytes[DESCRIPTOR];
    size_t length = content_size_length(descriptor);
    uint64_t size = 0;
    memcpy(&size, header->bytes + content_size_position(descriptor), length);
    size = le64toh(size);
    return length == 2 ? size + 256 : size;
}

static uint64_t window_of(uint8_t descriptor)
{
    uint64_t base = (uint64_t)1 << (WINDOW_LOG_LEAST + (descriptor >> 3));
    return base + base / 8 * (descriptor & 7);
}

/* How many bytes it takes to know, as far as those that are here tell. */
static size_t needed(const struct zstd_header *header)
{
    if (header->count < MAGIC_LENGTH || (magic_of(header) & ~15u) == SKIPPABLE_MAGIC)
        return MAGIC_LENGTH;
    if (header->count <= DESCRIPTOR) return DESCRIPTOR + 1;
    uint8_t descriptor = header->bytes[DESCRIPTOR];
    if (!(descriptor & SINGLE_SEGMENT)) return DESCRIPTOR + 2;
    return content_size_position(descriptor) + content_size_length(descriptor);
}

bool zstd_header_feed(struct zstd_header *header, const uint8_t *data, size_t length,
                      uint64_t *ret_window)
{
    if (header->known) return false;
    while (header->count < needed(header)) {
        if (length == 0) return false;
        header->bytes[header->count++] = *data++;
        length--;
    }
    header->known = true;
    if (header->count == MAGIC_LENGTH)
        *ret_window = 0;
    else if (header->bytes[DESCRIPTOR] & SINGLE_SEGMENT)
        *ret_window = content_size(header);
    else
        *ret_window = window_of(header->bytes[DESCRIPTOR + 1]);
    return true;
}
