#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

int buffer_reserve(struct buffer *buffer, size_t more)
{
    if (more > SIZE_MAX / 2 || buffer->length > SIZE_MAX / 2) return -1;
    size_t needed = buffer->length + more;
    if (needed <= buffer->capacity) return 0;
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < needed)
        capacity += capacity / 2;
    uint8_t *data = realloc(buffer->data, capacity);
    if (!data) return -1;
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

int buffer_append(struct buffer *buffer, const void *data, size_t length)
{
    if (length == 0) return 0;
    if (buffer_reserve(buffer, length) < 0) return -1;
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    return 0;
}

int buffer_append_zeros(struct buffer *buffer, size_t length)
{
    if (length == 0) return 0;
    if (buffer_reserve(buffer, length) < 0) return -1;
    memset(buffer->data + buffer->length, 0, length);
    buffer->length += length;
    return 0;
}

int buffer_append_u8(struct buffer *buffer, uint8_t value)
{
    return buffer_append(buffer, &value, 1);
}

static int append_little_endian(struct buffer *buffer, uint64_t value, size_t width)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < width; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    return buffer_append(buffer, bytes, width);
}

int buffer_append_le32(struct buffer *buffer, uint32_t value)
{
    return append_little_endian(buffer, value, 4);
}

int buffer_append_le64(struct buffer *buffer, uint64_t value)
{
    return append_little_endian(buffer, value, 8);
}

int buffer_append_varint(struct buffer *buffer, uint64_t value)
{
    uint8_t bytes[10];
    size_t length = 0;
    do {
        uint8_t low = value & 0x7f;
        value >>= 7;
        bytes[length++] = low | (value ? 0x80 : 0);
    } while (value);
    return buffer_append(buffer, bytes, length);
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){ 0 };
}

const uint8_t *cursor_bytes(struct cursor *cursor, size_t length)
{
    if (cursor->failed || length > cursor->length - cursor->position) {
        cursor->failed = 1;
        return NULL;
    }
    const uint8_t *bytes = cursor->data + cursor->position;
    cursor->position += length;
    return bytes;
}

static uint64_t read_little_endian(struct cursor *cursor, size_t width)
{
    const uint8_t *bytes = cursor_bytes(cursor, width);
    uint64_t value = 0;
    if (!bytes) return 0;
    for (size_t i = 0; i < width; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t cursor_u8(struct cursor *cursor)
{
    return (uint8_t)read_little_endian(cursor, 1);
}

uint16_t cursor_le16(struct cursor *cursor)
{
    return (uint16_t)read_little_endian(cursor, 2);
}

uint32_t cursor_le32(struct cursor *cursor)
{
    return (uint32_t)read_little_endian(cursor, 4);
}

uint64_t cursor_le64(struct cursor *cursor)
{
    return read_little_endian(cursor, 8);
}

uint64_t cursor_varint(struct cursor *cursor)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = cursor_u8(cursor);
        if (cursor->failed) return 0;
        if (shift == 63 && byte > 1) break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            if (byte == 0 && shift > 0) break; /* overlong */
            return value;
        }
    }
    cursor->failed = 1;
    return 0;
}
