#include "base/json.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Texts of a few bytes a value become some hundred bytes of memory each. What a registry has to say
 * in its 4 MiB takes a tenth of this many. */
#define VALUES_MAX 250000u

/* Every value but the first stands behind a bracket, a colon or a comma; those within strings are
 * counted, too. */
static bool has_too_many_values(const char *text, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++)
        count += text[i] == ',' || text[i] == ':' || text[i] == '[' || text[i] == '{';
    return count > VALUES_MAX;
}

json_t *json_read_object(const void *data, size_t length, const char *what, struct error **error)
{
    json_error_t reason;
    if (has_too_many_values(data, length)) {
        error_set(error, ERROR_INVALID, "%s has more than %u values", what, VALUES_MAX);
        return NULL;
    }
    json_t *root = json_loadb(data ? data : "", length, JSON_REJECT_DUPLICATES, &reason);
    if (!root) {
        error_set(error, ERROR_INVALID, "%s is not JSON (%s)", what, reason.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        error_set(error, ERROR_INVALID, "%s is not a JSON object", what);
        return NULL;
    }
    return root;
}

const char *json_optional_text(const json_t *object, const char *field)
{
    return json_string_value(json_object_get(object, field));
}

const char *json_field_text(const json_t *object, const char *field, struct error **error)
{
    const char *text = json_optional_text(object, field);
    if (!text) error_set(error, ERROR_INVALID, "'%s' is missing or no string", field);
    return text;
}

const json_t *json_field_array(const json_t *object, const char *field, struct error **error)
{
    const json_t *array = json_object_get(object, field);
    if (json_is_array(array)) return array;
    error_set(error, ERROR_INVALID, "'%s' is missing or no array", field);
    return NULL;
}

int json_field_size(const json_t *object, const char *field, uint64_t *ret, struct error **error)
{
    const json_t *value = json_object_get(object, field);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > (1ll << 53))
        return error_set(error, ERROR_INVALID, "'%s' is missing or no size", field);
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

json_t *json_any_text(const char *text)
{
    json_t *string = json_string(text);
    cleanup_free char *shown = string ? NULL : malloc(2 * strlen(text) + 1);
    if (!shown) return string;
    char *to = shown;
    for (const unsigned char *from = (const unsigned char *)text; *from; from++) {
        if (*from >= 0x80) *to++ = (char)(0xc0 | *from >> 6);
        *to++ = (char)(*from >= 0x80 ? 0x80 | (*from & 0x3f) : *from);
    }
    *to = 0;
    return json_string(shown);
}
