#include "base/clock.h"
#include "grpc/wire-internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_LIMIT = 2048 }; /* the usual limit for all headers together is 8 KiB */

static enum grpc_message_fault begin_message(struct grpc_message_reader *reader)
{
    const uint8_t *prefix = reader->prefix;
    if (prefix[0] == 1) return GRPC_MESSAGE_COMPRESSED;
    if (prefix[0] != 0) return GRPC_MESSAGE_BAD_FLAG;
    reader->length = (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 |
                     (uint32_t)prefix[3] << 8 | prefix[4];
    return reader->length > reader->limit ? GRPC_MESSAGE_TOO_LONG : GRPC_MESSAGE_FINE;
}

enum grpc_message_fault grpc_message_add(struct grpc_message_reader *reader, const uint8_t *data,
                                         size_t length)
{
    while (length > 0 && reader->fault == GRPC_MESSAGE_FINE) {
        if (reader->prefix_length < GRPC_PREFIX_LENGTH) {
            reader->prefix[reader->prefix_length++] = *data++;
            length--;
            if (reader->prefix_length == GRPC_PREFIX_LENGTH) reader->fault = begin_message(reader);
            continue;
        }
        size_t missing = reader->length - reader->message.length;
        if (missing == 0) {
            reader->fault = GRPC_MESSAGE_SECOND;
            break;
        }
        size_t taken = length < missing ? length : missing;
        if (buffer_append(&reader->message, data, taken) < 0)
            reader->fault = GRPC_MESSAGE_NO_MEMORY;
        data += taken;
        length -= taken;
    }
    return reader->fault;
}

enum grpc_message_fault grpc_message_end(struct grpc_message_reader *reader)
{
    if (reader->fault != GRPC_MESSAGE_FINE) return reader->fault;
    if (reader->prefix_length == 0)
        reader->fault = GRPC_MESSAGE_MISSING;
    else if (reader->prefix_length < GRPC_PREFIX_LENGTH || reader->message.length < reader->length)
        reader->fault = GRPC_MESSAGE_CUT;
    return reader->fault;
}

int grpc_message_append(struct buffer *to, const void *data, size_t length)
{
    if (length > UINT32_MAX || buffer_reserve(to, GRPC_PREFIX_LENGTH + length) < 0) return -1;
    const uint8_t prefix[GRPC_PREFIX_LENGTH] = { 0, (uint8_t)(length >> 24),
                                                 (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                                                 (uint8_t)length };
    buffer_append(to, prefix, sizeof prefix);
    return length ? buffer_append(to, data, length) : 0;
}

bool grpc_timeout_parse(const char *text, uint64_t *ret)
{
    uint64_t value = 0;
    size_t digits = 0;
    for (; text[digits] >= '0' && text[digits] <= '9'; digits++) {
        if (digits == 8) return false;
        value = value * 10 + (uint64_t)(text[digits] - '0');
    }
    if (digits == 0 || text[digits] == 0 || text[digits + 1] != 0) return false;
    switch (text[digits]) {
    case 'H':
        *ret = value * 3600000;
        return true;
    case 'M':
        *ret = value * 60000;
        return true;
    case 'S':
        *ret = value * 1000;
        return true;
    case 'm':
        *ret = value;
        return true;
    case 'u':
        *ret = (value + 999) / 1000;
        return true;
    case 'n':
        *ret = (value + 999999) / 1000000;
        return true;
    default:
        return false;
    }
}

void grpc_timeout_format(uint64_t milliseconds, char text[static GRPC_TIMEOUT_LENGTH])
{
    /* Eight digits at the most. */
    if (milliseconds <= 99999999)
        snprintf(text, GRPC_TIMEOUT_LENGTH, "%" PRIu64 "m", milliseconds);
    else if (milliseconds / 1000 <= 99999999)
        snprintf(text, GRPC_TIMEOUT_LENGTH, "%" PRIu64 "S", milliseconds / 1000);
    else
        snprintf(text, GRPC_TIMEOUT_LENGTH, "99999999S");
}

char *grpc_text_encode(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t length = strnlen(text, TEXT_LIMIT);
    char *encoded = malloc(3 * length + 1), *at = encoded;
    if (!encoded) return NULL;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            *at++ = (char)c;
            continue;
        }
        *at++ = '%';
        *at++ = digits[c >> 4];
        *at++ = digits[c & 15];
    }
    *at = 0;
    return encoded;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

char *grpc_text_decode(const uint8_t *text, size_t length)
{
    char *decoded = malloc(length + 1), *at = decoded;
    if (!decoded) return NULL;
    for (size_t i = 0; i < length; i++) {
        unsigned c = text[i];
        if (c == '%' && length - i > 2 && hex_digit(text[i + 1]) >= 0 &&
            hex_digit(text[i + 2]) >= 0) {
            c = (unsigned)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
            i += 2;
        }
        *at++ = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    *at = 0;
    return decoded;
}

bool grpc_number_parse(const uint8_t *text, size_t length, int *ret)
{
    int value = 0;
    if (length == 0 || length > 3) return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (text[i] - '0');
    }
    *ret = value;
    return true;
}
