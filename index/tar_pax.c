/* PAX extended headers: POSIX.1-2017, pax, "pax Extended Header". */
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

#define XATTR_PREFIX        "SCHILY.xattr."
#define XATTR_PREFIX_LENGTH 13

void pax_records_clear(struct pax_records *pax)
{
    pax->count = 0;
    pax->storage.length = 0;
}

void pax_records_free(struct pax_records *pax)
{
    buffer_free(&pax->storage);
    free(pax->records);
    *pax = (struct pax_records){ 0 };
}

static const char *key_of(const struct pax_records *pax, size_t position)
{
    return (const char *)pax->storage.data + pax->records[position].key;
}

static const char *value_of(const struct pax_records *pax, size_t position)
{
    return (const char *)pax->storage.data + pax->records[position].value;
}

static bool has_prefix(const char *text, size_t length, const char *prefix)
{
    size_t prefix_length = strlen(prefix);
    return length >= prefix_length && memcmp(text, prefix, prefix_length) == 0;
}

/* The others (atime, uname, comment, ...) change nothing that an image keeps. */
static bool is_meaningful(const char *key, size_t length)
{
    static const char *const keys[] = { "path", "linkpath", "size", "uid", "gid", "mtime" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (length == strlen(keys[i]) && memcmp(key, keys[i], length) == 0) return true;
    return has_prefix(key, length, XATTR_PREFIX) || has_prefix(key, length, "GNU.sparse.");
}

static ptrdiff_t find(const struct pax_records *pax, const char *key, size_t length)
{
    for (size_t i = 0; i < pax->count; i++)
        if (pax->records[i].key_length == length && memcmp(key_of(pax, i), key, length) == 0)
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
    ptrdiff_t same = find(pax, key, key_length);
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
        if (is_meaningful(key, (size_t)(equals - key)) &&
            add(pax, key, (size_t)(equals - key), equals + 1, (size_t)(end - equals - 1), error) <
                0)
            return -1;
        next += taken;
        length -= taken;
    }
    return 0;
}

static int parse_decimal(const char **text, uint64_t *ret)
{
    const char *digit = *text;
    uint64_t value = 0;
    for (; *digit >= '0' && *digit <= '9'; digit++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*digit - '0'), &value))
            return -1;
    if (digit == *text) return -1;
    *text = digit;
    *ret = value;
    return 0;
}

static int apply_number(const char *key, const char *value, uint64_t limit, uint64_t *ret,
                        struct error **error)
{
    const char *end = value;
    if (parse_decimal(&end, ret) < 0 || *end || *ret > limit)
        return error_set(error, ERROR_INVALID, "its PAX %s \"%.40s\" is out of range", key, value);
    return 0;
}

/* "[-]SECONDS[.FRACTION]"; nanoseconds count forward also before 1970. */
static int apply_time(const char *value, struct tar_header *header, struct error **error)
{
    const char *next = value;
    bool negative = *next == '-';
    uint64_t seconds;
    uint32_t nanoseconds = 0;
    if (negative) next++;
    if (parse_decimal(&next, &seconds) < 0 || seconds > INT64_MAX - 1) goto malformed;
    bool below = false; /* digits that a nanosecond does not hold */
    if (*next == '.') {
        next++;
        for (uint32_t unit = 100000000; *next >= '0' && *next <= '9'; next++, unit /= 10) {
            nanoseconds += unit * (uint32_t)(*next - '0');
            if (unit == 0 && *next != '0') below = true;
        }
    }
    if (*next) goto malformed;
    header->mtime = negative ? -(int64_t)seconds : (int64_t)seconds;
    header->mtime_nsec = nanoseconds;
    if (negative && (nanoseconds > 0 || below)) {
        /* Round down: -1.25 is 0.75 s after -2. */
        uint32_t away = nanoseconds + (below ? 1 : 0);
        header->mtime -= 1;
        header->mtime_nsec = 1000000000 - away;
    }
    return 0;
malformed:
    return error_set(error, ERROR_INVALID, "its PAX mtime \"%.40s\" is malformed", value);
}

static int apply_xattr(const struct pax_records *pax, size_t position, struct tar_header *header,
                       struct error **error)
{
    const char *name = key_of(pax, position) + XATTR_PREFIX_LENGTH;
    size_t value_length = pax->records[position].value_length;
    /* overlayfs would obey these. */
    if (strncmp(name, "trusted.overlay.", 16) == 0) return 0;
    if (value_length > UINT16_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "its attribute \"%.255s\" is longer than 65535 bytes", name);
    header->xattrs[header->xattr_count++] =
        (struct entry_xattr){ name, value_of(pax, position), (uint32_t)value_length };
    return 0;
}

static int apply_text(const struct pax_records *pax, size_t position, const char **ret,
                      struct error **error)
{
    const char *value = value_of(pax, position);
    if (strlen(value) != pax->records[position].value_length)
        return error_set(error, ERROR_INVALID, "its PAX %s holds a NUL", key_of(pax, position));
    *ret = value;
    return 0;
}

static int apply_record(const struct pax_records *pax, size_t position, struct tar_header *header,
                        struct error **error)
{
    const char *key = key_of(pax, position);
    const char *value = value_of(pax, position);
    uint64_t number = 0;
    if (has_prefix(key, pax->records[position].key_length, XATTR_PREFIX))
        return apply_xattr(pax, position, header, error);
    /* An empty value takes the record back: what the header block says holds. */
    if (pax->records[position].value_length == 0) return 0;
    if (strcmp(key, "path") == 0) return apply_text(pax, position, &header->name, error);
    if (strcmp(key, "linkpath") == 0) return apply_text(pax, position, &header->link, error);
    if (strcmp(key, "mtime") == 0) return apply_time(value, header, error);
    if (strcmp(key, "size") == 0) return apply_number(key, value, INT64_MAX, &header->size, error);
    if (strcmp(key, "uid") == 0) {
        if (apply_number(key, value, UINT32_MAX, &number, error) < 0) return -1;
        header->uid = (uint32_t)number;
    } else if (strcmp(key, "gid") == 0) {
        if (apply_number(key, value, UINT32_MAX, &number, error) < 0) return -1;
        header->gid = (uint32_t)number;
    } else {
        header->sparse = true;
    }
    return 0;
}

static int compare_xattrs(const void *left, const void *right)
{
    return strcmp(((const struct entry_xattr *)left)->name,
                  ((const struct entry_xattr *)right)->name);
}

int pax_records_apply(const struct pax_records *global, const struct pax_records *local,
                      struct tar_header *header, struct error **error)
{
    for (size_t i = 0; i < global->count; i++)
        if (find(local, key_of(global, i), global->records[i].key_length) < 0 &&
            apply_record(global, i, header, error) < 0)
            return -1;
    for (size_t i = 0; i < local->count; i++)
        if (apply_record(local, i, header, error) < 0) return -1;
    if (header->xattr_count > 1)
        qsort(header->xattrs, header->xattr_count, sizeof *header->xattrs, compare_xattrs);
    return 0;
}
