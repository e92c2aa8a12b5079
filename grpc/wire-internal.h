/*
 * How gRPC says things on HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md):
 * messages with a length before them, times, texts in headers. For both ends.
 */
#ifndef SLUICE_GRPC_WIRE_INTERNAL_H
#define SLUICE_GRPC_WIRE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

enum { GRPC_PREFIX_LENGTH = 5 }; /* a flag, and the length with its highest byte first */

enum grpc_message_fault {
    GRPC_MESSAGE_FINE = 0,
    GRPC_MESSAGE_COMPRESSED,
    GRPC_MESSAGE_BAD_FLAG,
    GRPC_MESSAGE_TOO_LONG,
    GRPC_MESSAGE_SECOND,  /* where one message is due */
    GRPC_MESSAGE_CUT,     /* the stream ended within it */
    GRPC_MESSAGE_MISSING, /* the stream ended before it */
    GRPC_MESSAGE_NO_MEMORY,
};

/* Reads the one message of a stream as its bytes come. */
struct grpc_message_reader {
    size_t limit; /* set by the user; the rest starts as zeros */
    uint8_t prefix[GRPC_PREFIX_LENGTH];
    unsigned prefix_length;
    uint32_t length;
    struct buffer message;
    enum grpc_message_fault fault; /* once it is set, further bytes are dropped */
};

enum grpc_message_fault grpc_message_add(struct grpc_message_reader *reader, const uint8_t *data,
                                         size_t length);
/* No more will come. */
enum grpc_message_fault grpc_message_end(struct grpc_message_reader *reader);
/* Appends a message with what goes before it. 0, or -1 when memory is short. */
int grpc_message_append(struct buffer *to, const void *data, size_t length);

/* A grpc-timeout in milliseconds, rounded up. False: it is none. */
bool grpc_timeout_parse(const char *text, uint64_t *ret);
enum { GRPC_TIMEOUT_LENGTH = 16 };
void grpc_timeout_format(uint64_t milliseconds, char text[static GRPC_TIMEOUT_LENGTH]);

/* A grpc-message: what is not printable ASCII, as %XX. Fresh memory, cut after some kilobytes; NULL
 * when memory is short. */
char *grpc_text_encode(const char *text);
/* The other way; control characters become '?', and a '%' that begins nothing stays. */
char *grpc_text_decode(const uint8_t *text, size_t length);

/* One to three digits, as those of a status; false: it is something else. */
bool grpc_number_parse(const uint8_t *text, size_t length, int *ret);

#endif
