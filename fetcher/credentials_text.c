/*
 * Credentials on their way between two processes: each field as its length and
 * its bytes, in one order; a field that is not there has a length of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/reference-internal.h"

#define ABSENT UINT32_MAX

static int put(struct buffer *ret, const char *field)
{
    size_t length = field ? strlen(field) : 0;
    if (!field) return buffer_append_le32(ret, ABSENT);
    if (length >= ABSENT || buffer_append_le32(ret, (uint32_t)length) < 0) return -1;
    return buffer_append(ret, field, length);
}

int registry_stored_credentials(const char *registry, int cancel_descriptor, struct buffer *ret,
                                struct error **error)
{
    struct credentials found;
    if (!registry_name_is_valid(registry))
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a registry", registry);
    credentials_search(registry, cancel_descriptor, &found);
    int failed = put(ret, found.user) | put(ret, found.password) | put(ret, found.identity_token) |
                 put(ret, found.problem);
    credentials_free(&found);
    return failed ? error_set_memory(error) : 0;
}

/* A string in fresh memory, or NULL where there is none; a failed cursor tells of damage. */
static char *take(struct cursor *text)
{
    uint32_t length = cursor_le32(text);
    if (text->failed || length == ABSENT) return NULL;
    const uint8_t *bytes = cursor_bytes(text, length);
    if (!bytes) return NULL;
    char *field = memchr(bytes, 0, length) ? NULL : strndup((const char *)bytes, length);
    if (!field) text->failed = 1;
    return field;
}

static int parse(const struct buffer *text, struct credentials *ret, struct error **error)
{
    struct cursor cursor = cursor_of(text->data, text->length);
    ret->user = take(&cursor);
    ret->password = take(&cursor);
    ret->identity_token = take(&cursor);
    ret->problem = take(&cursor);
    if (!cursor.failed && cursor_left(&cursor) == 0) return 0;
    credentials_free(ret);
    return error_set(error, ERROR_INVALID, "what was found cannot be read");
}

void credentials_ask(registry_credentials *ask, void *context, const char *registry,
                     int cancel_descriptor, struct credentials *ret)
{
    cleanup_error struct error *error = NULL;
    struct buffer text = { 0 };
    *ret = (struct credentials){ 0 };
    if (ask(context, registry, cancel_descriptor, &text, &error) < 0 ||
        parse(&text, ret, &error) < 0)
        ret->problem = strdup(error_message(error));
    if (text.data) explicit_bzero(text.data, text.capacity);
    buffer_free(&text);
}
