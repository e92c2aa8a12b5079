/* A growable run of bytes. A zeroed struct is an empty buffer. */
#ifndef SLUICE_BASE_BUFFER_H
#define SLUICE_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct buffer {
    uint8_t *data; /* owned; NULL while capacity is 0 */
    size_t length;
    size_t capacity;
};

/* Makes room for `more` bytes behind `length`. 0, or -1 when memory is short. */
int buffer_reserve(struct buffer *buffer, size_t more);
int buffer_append(struct buffer *buffer, const void *data, size_t length);
int buffer_append_zeros(struct buffer *buffer, size_t length);
int buffer_append_u8(struct buffer *buffer, uint8_t value);
int buffer_append_le32(struct buffer *buffer, uint32_t value);
int buffer_append_le64(struct buffer *buffer, uint64_t value);
/* Unsigned LEB128, at most 10 bytes. */
int buffer_append_varint(struct buffer *buffer, uint64_t value);

void buffer_free(struct buffer *buffer);
#define cleanup_buffer __attribute__((cleanup(buffer_free)))

/*
 * Reading hostile bytes: each call checks what is left, and after the first
 * failure the cursor stays failed, so a parser may check once at the end of a
 * record. Results after a failure are 0 / NULL.
 */
struct cursor {
    const uint8_t *data;
    size_t length;
    size_t position;
    int failed;
};

static inline struct cursor cursor_of(const void *data, size_t length)
{
    return (struct cursor){ (const uint8_t *)data, length, 0, 0 };
}

/* The next `length` bytes in place, or NULL. */
const uint8_t *cursor_bytes(struct cursor *cursor, size_t length);
uint8_t cursor_u8(struct cursor *cursor);
uint16_t cursor_le16(struct cursor *cursor);
uint32_t cursor_le32(struct cursor *cursor);
uint64_t cursor_le64(struct cursor *cursor);
/* Refuses overlong (non-canonical) encodings. */
uint64_t cursor_varint(struct cursor *cursor);

static inline size_t cursor_left(const struct cursor *cursor)
{
    return cursor->failed ? 0 : cursor->length - cursor->position;
}

#endif
