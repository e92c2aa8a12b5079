#include "credentials/pull_request.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fetcher/reference.h"

/*
 * Read where it lies, because a library for the encoding
 * (https://protobuf.dev/programming-guides/encoding/) leaves copies of the secrets behind.
 */
enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_LENGTH = 2, WIRE_32 = 5 };

/* The fields of CRI's messages. */
enum { PULL_IMAGE = 1, PULL_AUTH = 2 };
enum { IMAGE_NAME = 1 };
enum {
    AUTH_USERNAME = 1,
    AUTH_PASSWORD,
    AUTH_AUTH,
    AUTH_SERVER_ADDRESS,
    AUTH_IDENTITY_TOKEN,
    AUTH_REGISTRY_TOKEN,
    AUTH_FIELDS
};

struct text {
    const uint8_t *data; /* NULL: there is none */
    size_t length;
};

struct fields {
    struct text image, auth[AUTH_FIELDS];
};

/* ---- the encoding ---- */

/* A field of any type; what is no text or message has no data. 0 at the end. */
static uint64_t next_field(struct cursor *cursor, struct text *ret)
{
    *ret = (struct text){ 0 };
    if (cursor_left(cursor) == 0) return 0;
    uint64_t tag = cursor_varint(cursor);
    switch (tag & 7) {
    case WIRE_VARINT:
        cursor_varint(cursor);
        break;
    case WIRE_64:
        cursor_bytes(cursor, 8);
        break;
    case WIRE_32:
        cursor_bytes(cursor, 4);
        break;
    case WIRE_LENGTH:
        ret->length = cursor_varint(cursor);
        ret->data = cursor_bytes(cursor, ret->length);
        break;
    default:
        cursor->failed = 1;
    }
    if (tag >> 3 == 0) cursor->failed = 1;
    return cursor->failed ? 0 : tag >> 3;
}

/* Of what comes twice, the last counts; messages are merged. -1: it is no message. */
static int read_texts(struct text message, struct text *ret, uint64_t count)
{
    struct cursor cursor = cursor_of(message.data, message.length);
    struct text text;
    for (uint64_t field; (field = next_field(&cursor, &text));)
        if (field < count && text.data) ret[field] = text;
    return cursor.failed ? -1 : 0;
}

static int read_fields(const struct buffer *message, struct fields *ret)
{
    struct cursor cursor = cursor_of(message->data, message->length);
    struct text text, image[IMAGE_NAME + 1] = { 0 };
    int failed = 0;
    for (uint64_t field; (field = next_field(&cursor, &text));) {
        if (field == PULL_IMAGE && text.data) failed |= read_texts(text, image, IMAGE_NAME + 1);
        if (field == PULL_AUTH && text.data) failed |= read_texts(text, ret->auth, AUTH_FIELDS);
    }
    ret->image = image[IMAGE_NAME];
    return failed || cursor.failed ? -1 : 0;
}

/* ---- what it means ---- */

static int copy(char **ret, struct text text, struct error **error)
{
    if (text.data && memchr(text.data, 0, text.length))
        return error_set(error, ERROR_INVALID, "a text in the request has a zero byte");
    *ret = text.data ? strndup((const char *)text.data, text.length) : strdup("");
    return *ret ? 0 : error_set_memory(error);
}

static int take_auth(struct credentials *ret, struct text auth, struct error **error)
{
    char *encoded = NULL;
    /* Some pad it with zero bytes. */
    while (auth.length > 0 && auth.data[auth.length - 1] == 0)
        auth.length--;
    if (copy(&encoded, auth, error) < 0) return -1;
    int result = credentials_decode_auth(encoded, ret, error);
    secret_free(encoded);
    return result < 0 ? -1 : 0;
}

/* Of several kinds, containerd takes the first in this order, too. */
static int take_credentials(struct credentials *ret, const struct text auth[AUTH_FIELDS],
                            struct error **error)
{
    if (auth[AUTH_USERNAME].length) {
        if (copy(&ret->user, auth[AUTH_USERNAME], error) < 0) return -1;
        return copy(&ret->password, auth[AUTH_PASSWORD], error);
    }
    if (auth[AUTH_IDENTITY_TOKEN].length)
        return copy(&ret->identity_token, auth[AUTH_IDENTITY_TOKEN], error);
    if (auth[AUTH_AUTH].length) return take_auth(ret, auth[AUTH_AUTH], error);
    if (!auth[AUTH_REGISTRY_TOKEN].length) return 0;
    if (copy(&ret->registry_token, auth[AUTH_REGISTRY_TOKEN], error) < 0) return -1;
    if (registry_token_is_valid(ret->registry_token)) return 0;
    return error_set(error, ERROR_INVALID, "the registry token in the request is none");
}

/* 0: they are for somebody else. */
static int check_server(const char *image, struct text address, struct error **error)
{
    cleanup_free char *server = NULL;
    struct image_reference reference;
    if (address.length == 0) return 1;
    if (copy(&server, address, error) < 0 || image_reference_parse(&reference, image, error) < 0)
        return -1;
    bool same = credentials_key_matches(server, reference.registry);
    image_reference_free(&reference);
    return same;
}

static int take_fields(struct pull_request *ret, const struct fields *fields, struct error **error)
{
    if (copy(&ret->image, fields->image, error) < 0 ||
        take_credentials(&ret->credentials, fields->auth, error) < 0)
        return -1;
    if (!credentials_are_known(&ret->credentials)) return 0;
    return check_server(ret->image, fields->auth[AUTH_SERVER_ADDRESS], error);
}

int pull_request_read(struct pull_request *ret, const struct buffer *message, struct error **error)
{
    struct fields fields = { 0 };
    *ret = (struct pull_request){ 0 };
    if (read_fields(message, &fields) < 0)
        return error_set(error, ERROR_INVALID, "the request cannot be read");
    int result = take_fields(ret, &fields, error);
    if (result <= 0) pull_request_free(ret);
    return result;
}

void pull_request_free(struct pull_request *request)
{
    free(request->image);
    request->image = NULL;
    credentials_free(&request->credentials);
}
