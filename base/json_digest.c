/* Apart from json.c, so that who wants no digests needs no library for them. */
#include "base/json.h"

int json_field_digest(const json_t *object, const char *field, struct digest *ret,
                      struct error **error)
{
    const char *text = json_field_text(object, field, error);
    return text ? digest_parse(ret, text, error) : -1;
}
