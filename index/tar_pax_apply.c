/* What PAX records say of an entry. */
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

static int apply_number(const char *key, const char *value, uint64_t limit, uint64_t *ret,
                        struct error **error)
{
    const char *end = value;
    if (tar_decimal(&end, ret) < 0 || *end || *ret > limit)
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
    if (tar_decimal(&next, &seconds) < 0 || seconds > INT64_MAX - 1) goto malformed;
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
    const char *key = pax_key(pax, position);
    size_t length = pax->records[position].key_length;
    if (form->name) return pax_key_is(key, length, form->key) ? form->name : NULL;
    return pax_key_starts(key, length, form->key) ? key + strlen(form->key) : NULL;
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
        if (acl_check(pax_value(pax, position), value_length, &empty, error) < 0) return -1;
        if (empty) return 0;
    }
    header->xattrs[header->xattr_count++] =
        (struct entry_xattr){ name, pax_value(pax, position), (uint32_t)value_length };
    return 0;
}

static int apply_text(const struct pax_records *pax, size_t position, const char **ret,
                      struct error **error)
{
    const char *value = pax_value(pax, position);
    if (strlen(value) != pax->records[position].value_length)
        return error_set(error, ERROR_INVALID, "its PAX %s holds a NUL", pax_key(pax, position));
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
    const char *key = pax_key(pax, position) + strlen(SPARSE_PREFIX);
    const char *value = pax_value(pax, position);
    if (strcmp(key, "name") == 0) return apply_text(pax, position, &header->sparse_name, error);
    if (strcmp(key, "size") != 0 && strcmp(key, "realsize") != 0) return 0;
    header->has_real_size = true;
    return apply_number(key, value, INT64_MAX, &header->real_size, error);
}

static int apply_record(const struct pax_records *pax, size_t position, struct tar_header *header,
                        struct error **error)
{
    const char *key = pax_key(pax, position);
    const char *value = pax_value(pax, position);
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
    ptrdiff_t position = pax_find(pax, name, strlen(name));
    return position < 0 ? "" : pax_value(pax, (size_t)position);
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
        if (pax_find(local, pax_key(global, i), global->records[i].key_length) < 0 &&
            apply_record(global, i, header, error) < 0)
            return -1;
    for (size_t i = 0; i < local->count; i++)
        if (apply_record(local, i, header, error) < 0) return -1;
    if (apply_sparse_form(local, header, error) < 0) return -1;
    return apply_xattrs(global, local, header, error);
}
