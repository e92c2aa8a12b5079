/*
 * Reading JSON that came from outside: fields of the expected type or a clear
 * error, over jansson.
 */
#ifndef SLUICE_BASE_JSON_H
#define SLUICE_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"

/* A new reference to the object in `data`; NULL with ERROR_INVALID ("`what` is not a JSON object").
 * Memory is bounded by some 100 MB, whatever the text holds.
 * Duplicate keys are refused: readers must not differ in what they see. */
json_t *json_read_object(const void *data, size_t length, const char *what, struct error **error);

/* The field as borrowed text, or NULL with the error set where it is missing or no string. */
const char *json_field_text(const json_t *object, const char *field, struct error **error);
/* NULL, without an error, where it is missing or no string. */
const char *json_optional_text(const json_t *object, const char *field);
/* An array, or NULL with the error set. */
const json_t *json_field_array(const json_t *object, const char *field, struct error **error);
/* An integer from 0 to 2^53. */
int json_field_size(const json_t *object, const char *field, uint64_t *ret, struct error **error);
int json_field_digest(const json_t *object, const char *field, struct digest *ret,
                      struct error **error);

/* An array of digests, in fresh memory. ERROR_INVALID also where there are more than `limit`. */
int json_field_digests(const json_t *object, const char *field, size_t limit, struct digest **ret,
                       size_t *ret_count, struct error **error);
/* A new array; NULL: out of memory. */
json_t *json_digests(const struct digest *digests, size_t count);

/* A new string. JSON knows no other bytes than UTF-8's, and a file name may hold any: one that is
 * no UTF-8 is shown as Latin-1 would. NULL: out of memory. */
json_t *json_any_text(const char *text);

static inline void cleanup_json_function(json_t **json)
{
    json_decref(*json);
}
#define cleanup_json __attribute__((cleanup(cleanup_json_function)))

#endif
