/* PAX extended headers: POSIX.1-2017, pax, "pax Extended Header". */
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

/* One attribute may be told in several forms; the first of these holds. */
#define XATTR_PREFIX         "SCHILY.xattr."
#define ENCODED_XATTR_PREFIX "LIBARCHIVE.xattr."
#define ACL_ACCESS_KEY       "SCHILY.acl.access"
#define ACL_DEFAULT_KEY      "SCHILY.acl.default"

#define SPARSE_PREFIX "GNU.sparse."

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

static bool key_is(const char *key, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(key, name, length) == 0;
}

/* The others (atime, uname, comment, ...) change nothing that an image keeps. */
static bool is_meaningful(const char *key, size_t length)
{
    static const char *const keys[] = { "path",  "linkpath",        "size",           "uid", "gid",
                                        "mtime", "SCHILY.devmajor", "SCHILY.devminor" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (key_is(key, length, keys[i])) return true;
    return has_prefix(key, length, XATTR_PREFIX) || has_prefix(key, length, SPARSE_PREFIX);
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
    if (parse_decimal(&value, &number) < 0 || *value != '\n' || is_offset == pax->has_sparse_offset)
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
    if (key_is(key, key_length, SPARSE_PREFIX "offset"))
        return add_sparse_pair(pax, true, value, error);
    if (key_is(key, key_length, SPARSE_PREFIX "numbytes"))
        return add_sparse_pair(pax, false, value, error);
    if (key_is(key, key_length, SPARSE_PREFIX "map"))
        return add_sparse_list(pax, value, value_length, error);
    if (has_prefix(key, key_length, ENCODED_XATTR_PREFIX))
        return add_encoded_xattr(pax, key, key_length, value, value_length, error);
    if (key_is(key, key_length, ACL_ACCESS_KEY) || key_is(key, key_length, ACL_DEFAULT_KEY))
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

/* How archives tell attributes. What has several forms is taken from the first of these. */
static const struct xattr_form {
    const char *key;  /* or the start of it */
    const char *name; /* of the attribute; NULL: what follows `key` */
} xattr_forms[] = {
    { XATTR_PREFIX, NULL },
    { ENCODED_XATTR_PREFIX, NULL },
    { ACL_ACCESS_KEY, ACL_ACCESS_NAME },
    { ACL_DEFAULT_KEY, ACL_DEFAULT_NAME },
};
#define XATTR_FORMS (sizeof xattr_forms / sizeof *xattr_forms)

/* The attribute that the record tells in this form, or NULL. */
static const char *xattr_name_of(const struct pax_records *pax, size_t position,
                                 const struct xattr_form *form)
{
    const char *key = key_of(pax, position);
    size_t length = pax->records[position].key_length;
    if (form->name) return key_is(key, length, form->key) ? form->name : NULL;
    return has_prefix(key, length, form->key) ? key + strlen(form->key) : NULL;
}

static bool is_xattr(const struct pax_records *pax, size_t position)
{
    for (size_t i = 0; i < XATTR_FORMS; i++)
        if (xattr_name_of(pax, position, &xattr_forms[i])) return true;
    return false;
}

static bool has_xattr(const struct tar_header *header, const char *name)
{
    for (size_t i = 0; i < header->xattr_count; i++)
        if (strcmp(header->xattrs[i].name, name) == 0) return true;
    return false;
}

static int apply_xattr(const struct pax_records *pax, size_t position,
                       const struct xattr_form *form, struct tar_header *header,
                       struct error **error)
{
    const char *name = xattr_name_of(pax, position, form);
    size_t value_length = pax->records[position].value_length;
    /* overlayfs would obey these. */
    if (!name || strncmp(name, "trusted.overlay.", 16) == 0 || has_xattr(header, name)) return 0;
    if (value_length > UINT16_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "its attribute \"%.255s\" is longer than 65535 bytes", name);
    if (strcmp(name, ACL_ACCESS_NAME) == 0 || strcmp(name, ACL_DEFAULT_NAME) == 0) {
        bool empty = false;
        if (acl_check(value_of(pax, position), value_length, &empty, error) < 0) return -1;
        if (empty) return 0;
    }
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

static int apply_u32(const char *key, const char *value, uint32_t *ret, struct error **error)
{
    uint64_t number;
    if (apply_number(key, value, UINT32_MAX, &number, error) < 0) return -1;
    *ret = (uint32_t)number;
    return 0;
}

static int apply_sparse(const struct pax_records *pax, size_t position, struct tar_header *header,
                        struct error **error)
{
    const char *key = key_of(pax, position) + strlen(SPARSE_PREFIX);
    const char *value = value_of(pax, position);
    if (strcmp(key, "name") == 0) return apply_text(pax, position, &header->sparse_name, error);
    if (strcmp(key, "size") != 0 && strcmp(key, "realsize") != 0) return 0;
    header->has_real_size = true;
    return apply_number(key, value, INT64_MAX, &header->real_size, error);
}

static int apply_record(const struct pax_records *pax, size_t position, struct tar_header *header,
                        struct error **error)
{
    const char *key = key_of(pax, position);
    const char *value = value_of(pax, position);
    if (is_xattr(pax, position)) return 0; /* for apply_xattrs() */
    /* An empty value takes the record back: what the header block says holds. */
    if (pax->records[position].value_length == 0) return 0;
    if (strcmp(key, "path") == 0) return apply_text(pax, position, &header->name, error);
    if (strcmp(key, "linkpath") == 0) return apply_text(pax, position, &header->link, error);
    if (strcmp(key, "mtime") == 0) return apply_time(value, header, error);
    if (strcmp(key, "size") == 0) return apply_number(key, value, INT64_MAX, &header->size, error);
    if (strcmp(key, "uid") == 0) return apply_u32(key, value, &header->uid, error);
    if (strcmp(key, "gid") == 0) return apply_u32(key, value, &header->gid, error);
    if (strcmp(key, "SCHILY.devmajor") == 0)
        return apply_u32(key, value, &header->device_major, error);
    if (strcmp(key, "SCHILY.devminor") == 0)
        return apply_u32(key, value, &header->device_minor, error);
    return apply_sparse(pax, position, header, error);
}

static const char *sparse_value(const struct pax_records *pax, const char *name)
{
    ptrdiff_t position = find(pax, name, strlen(name));
    return position < 0 ? "" : value_of(pax, (size_t)position);
}

/* Which version of GNU's sparse records this is. */
static int apply_sparse_form(const struct pax_records *pax, struct tar_header *header,
                             struct error **error)
{
    const char *major = sparse_value(pax, SPARSE_PREFIX "major");
    const char *minor = sparse_value(pax, SPARSE_PREFIX "minor");
    const char *count = sparse_value(pax, SPARSE_PREFIX "numblocks");
    uint64_t number = 0;
    if (strcmp(major, "1") == 0 && strcmp(minor, "0") == 0) {
        header->sparse = TAR_SPARSE_DATA;
        return pax->has_sparse_map
                   ? error_set(error, ERROR_INVALID, "it has sparse maps of two kinds")
                   : 0;
    }
    bool old = strcmp(major, "0") == 0 && (strcmp(minor, "0") == 0 || strcmp(minor, "1") == 0);
    if ((*major || *minor) && !old)
        return error_set(error, ERROR_UNSUPPORTED, "it is a sparse file of version %.20s.%.20s",
                         major, minor);
    if (!old && !pax->has_sparse_map && !*count) return 0;
    header->sparse = TAR_SPARSE_PAX;
    if (*count && apply_number("GNU.sparse.numblocks", count, INT64_MAX, &number, error) < 0)
        return -1;
    if (pax->has_sparse_offset || (*count && number != pax->sparse.named))
        return error_set(error, ERROR_INVALID, "its sparse map is cut short");
    return 0;
}

static int compare_xattrs(const void *left, const void *right)
{
    return strcmp(((const struct entry_xattr *)left)->name,
                  ((const struct entry_xattr *)right)->name);
}

static int apply_xattrs(const struct pax_records *global, const struct pax_records *local,
                        struct tar_header *header, struct error **error)
{
    for (size_t form = 0; form < XATTR_FORMS; form++) {
        for (size_t i = 0; i < local->count; i++)
            if (apply_xattr(local, i, &xattr_forms[form], header, error) < 0) return -1;
        for (size_t i = 0; i < global->count; i++)
            if (apply_xattr(global, i, &xattr_forms[form], header, error) < 0) return -1;
    }
    if (header->xattr_count > 1)
        qsort(header->xattrs, header->xattr_count, sizeof *header->xattrs, compare_xattrs);
    return 0;
}

int pax_records_apply(const struct pax_records *global, const struct pax_records *local,
                      struct tar_header *header, struct error **error)
{
    if (global->has_sparse_map || global->has_sparse_offset)
        return error_set(error, ERROR_INVALID, "a global PAX header has a sparse map");
    for (size_t i = 0; i < global->count; i++)
        if (find(local, key_of(global, i), global->records[i].key_length) < 0 &&
            apply_record(global, i, header, error) < 0)
            return -1;
    for (size_t i = 0; i < local->count; i++)
        if (apply_record(local, i, header, error) < 0) return -1;
    if (apply_sparse_form(local, header, error) < 0) return -1;
    return apply_xattrs(global, local, header, error);
}
