/* PAX extended headers: POSIX.1-2017, pax, "pax Extended Header". */
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

void pax_records_clear(struct pax_records *pax)
{
    pax->count = 0;
    pax->storage.length = 0;
    pax->has_sparse_map = pax->has_sparse_offset = pax->has_unnumbered_acl = false;
    sparse_segments_clear(&pax->sparse);
}

void pax_records_free(struct pax_records *pax)
{
    buffer_free(&pax->storage);
    free(pax->records);
    sparse_segments_free(&pax->sparse);
    *pax = (struct pax_records){ 0 };
}

/* The others (atime, uname, comment, ...) change nothing that an image keeps. */
static bool is_meaningful(const char *key, size_t length)
{
    static const char *const keys[] = { "path",  "linkpath",        "size",           "uid", "gid",
                                        "mtime", "SCHILY.devmajor", "SCHILY.devminor" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (pax_key_is(key, length, keys[i])) return true;
    return pax_key_starts(key, length, XATTR_PREFIX) || pax_key_starts(key, length, SPARSE_PREFIX);
}

ptrdiff_t pax_find(const struct pax_records *pax, const char *key, size_t length)
{
    for (size_t i = 0; i < pax->count; i++)
        if (pax->records[i].key_length == length && memcmp(pax_key(pax, i), key, length) == 0)
            return (ptrdiff_t)i;
    return -1;
}

static int add(struct pax_records *pax, const char *key, size_t key_length, const char *value,
               size_t value_length, struct error **error)
{
    struct buffer *storage = &pax->storage;
    /* Global headers add up over the whole stream. */
    if (storage->length + key_length + value_length > 2 * (size_t)TAR_META_BYTES_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "its PAX headers hold more than 2 MiB");
    struct pax_record record = { storage->length, storage->length + key_length + 1, key_length,
                                 value_length };
    ptrdiff_t same = pax_find(pax, key, key_length);
    if (buffer_append(storage, key, key_length) < 0 || buffer_append_u8(storage, 0) < 0 ||
        buffer_append(storage, value, value_length) < 0 || buffer_append_u8(storage, 0) < 0)
        return error_set_memory(error);
    if (same >= 0) {
        pax->records[same] = record;
        return 0;
    }
    if (pax->count == TAR_RECORDS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "its PAX headers hold more than %d records",
                         TAR_RECORDS_MAX);
    if (pax->count == pax->capacity) {
        size_t capacity = pax->capacity ? pax->capacity * 2 : 16;
        struct pax_record *records = reallocarray(pax->records, capacity, sizeof *records);
        if (!records) return error_set_memory(error);
        pax->records = records;
        pax->capacity = capacity;
    }
    pax->records[pax->count++] = record;
    return 0;
}

static int add_encoded_xattr(struct pax_records *pax, const char *key, size_t key_length,
                             const char *value, size_t value_length, struct error **error)
{
    size_t prefix = strlen(ENCODED_XATTR_PREFIX);
    cleanup_buffer struct buffer name = { 0 }, decoded = { 0 };
    if (buffer_append(&name, key, prefix) < 0) return error_set_memory(error);
    if (xattr_name_decode(key + prefix, key_length - prefix, &name, error) < 0 ||
        xattr_value_decode(value, value_length, &decoded, error) < 0)
        return -1;
    return add(pax, (const char *)name.data, name.length, (const char *)decoded.data,
               decoded.length, error);
}

static int add_acl(struct pax_records *pax, const char *key, size_t key_length, const char *value,
                   size_t value_length, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 }, acl = { 0 };
    if (memchr(value, 0, value_length))
        return error_set(error, ERROR_INVALID, "its ACL is malformed");
    if (buffer_append(&text, value, value_length) < 0 || buffer_append_u8(&text, 0) < 0)
        return error_set_memory(error);
    int status = acl_from_text((const char *)text.data, &acl, error);
    if (status < 0) return -1;
    if (status > 0) {
        /* Whose number a name has is a matter of the image's own /etc/passwd, or of nobody's. */
        pax->has_unnumbered_acl = true;
        return 0;
    }
    return add(pax, key, key_length, (const char *)acl.data, acl.length, error);
}

/* Version 0.0 has a pair of records for each segment, and no key of the others. */
static int add_sparse_pair(struct pax_records *pax, bool is_offset, const char *value,
                           struct error **error)
{
    uint64_t number;
    if (tar_decimal(&value, &number) < 0 || *value != '\n' || is_offset == pax->has_sparse_offset)
        return error_set(error, ERROR_INVALID, "its sparse map is malformed");
    pax->has_sparse_map = true;
    pax->has_sparse_offset = is_offset;
    if (!is_offset) return sparse_segments_add(&pax->sparse, pax->sparse_offset, number, error);
    pax->sparse_offset = number;
    return 0;
}

static int add_sparse_list(struct pax_records *pax, const char *value, size_t length,
                           struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    if (buffer_append(&text, value, length) < 0 || buffer_append_u8(&text, 0) < 0)
        return error_set_memory(error);
    sparse_segments_clear(&pax->sparse);
    pax->has_sparse_map = true;
    if (strlen((const char *)text.data) != length)
        return error_set(error, ERROR_INVALID, "its sparse map is malformed");
    return sparse_segments_add_list(&pax->sparse, (const char *)text.data, error);
}

/* `value` is followed by a newline. */
static int take_record(struct pax_records *pax, const char *key, size_t key_length,
                       const char *value, size_t value_length, struct error **error)
{
    if (pax_key_is(key, key_length, SPARSE_PREFIX "offset"))
        return add_sparse_pair(pax, true, value, error);
    if (pax_key_is(key, key_length, SPARSE_PREFIX "numbytes"))
        return add_sparse_pair(pax, false, value, error);
    if (pax_key_is(key, key_length, SPARSE_PREFIX "map"))
        return add_sparse_list(pax, value, value_length, error);
    if (pax_key_starts(key, key_length, ENCODED_XATTR_PREFIX))
        return add_encoded_xattr(pax, key, key_length, value, value_length, error);
    if (pax_key_is(key, key_length, ACL_ACCESS_KEY) || pax_key_is(key, key_length, ACL_DEFAULT_KEY))
        return add_acl(pax, key, key_length, value, value_length, error);
    if (!is_meaningful(key, key_length)) return 0;
    return add(pax, key, key_length, value, value_length, error);
}

/* The decimal length that starts a record; 0: none. */
static size_t record_length(const char *data, size_t length, size_t *ret_digits)
{
    size_t value = 0, i = 0;
    while (i < length && i < 8 && data[i] >= '0' && data[i] <= '9')
        value = value * 10 + (size_t)(data[i++] - '0');
    *ret_digits = i;
    return value;
}

int pax_records_parse(struct pax_records *pax, const void *data, size_t length,
                      struct error **error)
{
    const char *next = data;
    while (length > 0) {
        size_t digits, taken = record_length(next, length, &digits);
        /* "LENGTH KEY=VALUE\n", the length counting all of it. */
        if (digits == 0 || taken > length || taken < digits + 3 || next[digits] != ' ' ||
            next[taken - 1] != '\n')
            return error_set(error, ERROR_INVALID, "a PAX record is malformed");
        const char *key = next + digits + 1;
        const char *end = next + taken - 1;
        const char *equals = memchr(key, '=', (size_t)(end - key));
        if (!equals || equals == key || memchr(key, 0, (size_t)(equals - key)))
            return error_set(error, ERROR_INVALID, "a PAX record has no key");
        if (take_record(pax, key, (size_t)(equals - key), equals + 1, (size_t)(end - equals - 1),
                        error) < 0)
            return -1;
        next += taken;
        length -= taken;
    }
    return 0;
}
