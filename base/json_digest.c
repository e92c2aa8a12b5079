/* Apart from json.c, so that who wants no digests needs no library for them. */
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/json.h"

int json_field_digest(const json_t *object, const char *field, struct digest *ret,
                      struct error **error)
{
    const char *text = json_field_text(object, field, error);
    return text ? digest_parse(ret, text, error) : -1;
}

json_t *json_digests(const struct digest *digests, size_t count)
{
    char text[DIGEST_TEXT_SIZE];
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(digest_format(&digests[i], text)));
    if (json_array_size(list) == count) return list;
    json_decref(list);
    return NULL;
}

int json_field_digests(const json_t *object, const char *field, size_t limit, struct digest **ret,
                       size_t *ret_count, struct error **error)
{
    const json_t *list = json_field_array(object, field, error);
    if (!list) return -1;
    size_t count = json_array_size(list), known = 0;
    if (count > limit) return error_set(error, ERROR_INVALID, "'%s' has %zu digests", field, count);
    cleanup_free struct digest *digests = calloc(count + 1, sizeof *digests);
    if (!digests) return error_set_memory(error);
    for (; known < count; known++) {
        const char *text = json_string_value(json_array_get(list, known));
        if (!text) return error_set(error, ERROR_INVALID, "'%s' has what is no digest", field);
        if (digest_parse(&digests[known], text, error) < 0) return -1;
    }
    *ret = take_pointer(&digests);
    *ret_count = count;
    return 0;
}
