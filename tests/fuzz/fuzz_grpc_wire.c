/*
 * Fed: how long the pieces are in which a stream's bytes arrive, and these bytes; they are also
 * read as a grpc-timeout, as a grpc-message and as a header.
 *
 * Holds: a message does not depend on the pieces, and what is put before it is what was taken away;
 * texts have no control characters; a text that was encoded is decoded to itself.
 */
#include "grpc/metadata.h"
#include "grpc/wire-internal.h"
#include "tests/fuzz/fuzz.h"

enum { LIMIT = 1000 };

static struct grpc_message_reader read_message(const uint8_t *data, size_t length, size_t piece)
{
    struct grpc_message_reader reader = { .limit = LIMIT };
    for (size_t i = 0; i < length; i += piece)
        grpc_message_add(&reader, data + i, length - i < piece ? length - i : piece);
    grpc_message_end(&reader);
    EXPECT(reader.message.length <= LIMIT);
    return reader;
}

static void read_texts(const uint8_t *data, size_t length)
{
    char *text = text_of_bytes(data, length);
    uint64_t milliseconds;
    if (grpc_timeout_parse(text, &milliseconds)) EXPECT(strlen(text) <= 9);
    char *decoded = grpc_text_decode(data, length);
    EXPECT(decoded);
    for (const char *c = decoded; *c; c++)
        EXPECT((unsigned char)*c >= ' ' && *c != 0x7f);
    char *encoded = grpc_text_encode(decoded);
    EXPECT(encoded);
    char *again = grpc_text_decode((const uint8_t *)encoded, strlen(encoded));
    EXPECT(again && strncmp(again, decoded, 2048) == 0);
    struct grpc_metadata metadata = { 0 };
    size_t name = strlen(text) < length ? strlen(text) : 0;
    if (grpc_metadata_add(&metadata, data, name, data + name + 1, length - name - 1) == 0) {
        EXPECT(grpc_metadata_find(&metadata, text));
        EXPECT(metadata.bytes == length - 1);
    }
    grpc_metadata_free(&metadata);
    free(again);
    free(encoded);
    free(decoded);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    size_t piece = 1 + take_number(&data, &length, 1);
    struct grpc_message_reader whole = read_message(data, length, length + 1);
    struct grpc_message_reader pieces = read_message(data, length, piece);
    EXPECT(whole.fault == pieces.fault && equal_buffers(&whole.message, &pieces.message));
    if (whole.fault == GRPC_MESSAGE_FINE) {
        struct buffer framed = { 0 };
        EXPECT(grpc_message_append(&framed, whole.message.data, whole.message.length) == 0);
        EXPECT(framed.length == length && memcmp(framed.data, data, length) == 0);
        buffer_free(&framed);
    }
    buffer_free(&whole.message);
    buffer_free(&pieces.message);
    if (length > 0) read_texts(data, length);
    return 0;
}
