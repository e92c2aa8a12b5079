/*
 * Attributes that archives tell in a form of their own: ACLs as text, and
 * libarchive's encoded names and values.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

/* linux/posix_acl.h and linux/posix_acl_xattr.h */
#define ACL_VERSION      2u
#define ACL_UNDEFINED_ID UINT32_MAX
#define ACL_ENTRIES_MAX  8190 /* what 65,535 bytes hold */

enum acl_tag {
    ACL_USER_OBJ = 0x01,
    ACL_USER = 0x02,
    ACL_GROUP_OBJ = 0x04,
    ACL_GROUP = 0x08,
    ACL_MASK = 0x10,
    ACL_OTHER = 0x20,
};

struct acl_entry {
    uint16_t tag, permissions;
    uint32_t id;
};

struct text {
    const char *start;
    size_t length;
};

static struct text trimmed(const char *start, size_t length)
{
    while (length > 0 && (*start == ' ' || *start == '\t')) {
        start++;
        length--;
    }
    while (length > 0 && (start[length - 1] == ' ' || start[length - 1] == '\t'))
        length--;
    return (struct text){ start, length };
}

static bool text_is(struct text text, const char *word, const char *letter)
{
    return (text.length == strlen(word) && memcmp(text.start, word, text.length) == 0) ||
           (text.length == 1 && *text.start == *letter);
}

/* Cuts off what is before the next ':', or all of it. */
static struct text next_field(struct text *rest)
{
    const char *colon = rest->length ? memchr(rest->start, ':', rest->length) : NULL;
    size_t length = colon ? (size_t)(colon - rest->start) : rest->length;
    struct text field = trimmed(rest->start, length);
    length += colon ? 1 : 0;
    rest->start += length;
    rest->length -= length;
    return field;
}

static int malformed(struct error **error)
{
    return error_set(error, ERROR_INVALID, "its ACL is malformed");
}

static int read_permissions(struct text text, uint16_t *ret)
{
    *ret = 0;
    if (text.length == 0) return -1;
    for (size_t i = 0; i < text.length; i++) {
        switch (text.start[i]) {
        case 'r':
            *ret |= 4;
            break;
        case 'w':
            *ret |= 2;
            break;
        case 'x':
            *ret |= 1;
            break;
        case '-':
            break;
        default:
            return -1;
        }
    }
    return 0;
}

/* 1: it is no number. */
static int read_id(struct text text, uint32_t *ret)
{
    uint64_t value = 0;
    if (text.length == 0) return 1;
    for (size_t i = 0; i < text.length; i++) {
        if (text.start[i] < '0' || text.start[i] > '9') return 1;
        value = value * 10 + (uint64_t)(text.start[i] - '0');
        if (value >= ACL_UNDEFINED_ID) return 1;
    }
    *ret = (uint32_t)value;
    return 0;
}

/* "TAG:[QUALIFIER]:PERMISSIONS[:ID]"; the mask and others may lack the qualifier's field. */
static int read_acl_entry(struct text line, struct acl_entry *ret, struct error **error)
{
    struct text tag = next_field(&line);
    if (text_is(tag, "default", "d") && line.length) tag = next_field(&line);
    bool user = text_is(tag, "user", "u"), group = text_is(tag, "group", "g");
    bool mask = text_is(tag, "mask", "m"), other = text_is(tag, "other", "o");
    struct text qualifier = next_field(&line), id = { 0 };
    if (!user && !group && !mask && !other) return malformed(error);
    if ((mask || other) && qualifier.length > 0 && line.length == 0) {
        line = qualifier;
        qualifier.length = 0;
    }
    struct text permissions = next_field(&line);
    id = next_field(&line);
    if (line.length || read_permissions(permissions, &ret->permissions) < 0)
        return malformed(error);
    ret->id = ACL_UNDEFINED_ID;
    if (mask || other) {
        ret->tag = mask ? ACL_MASK : ACL_OTHER;
        return qualifier.length || id.length ? malformed(error) : 0;
    }
    if (qualifier.length == 0 && id.length == 0) {
        ret->tag = user ? ACL_USER_OBJ : ACL_GROUP_OBJ;
        return 0;
    }
    ret->tag = user ? ACL_USER : ACL_GROUP;
    return read_id(id.length ? id : qualifier, &ret->id);
}

static int compare_acl_entries(const void *left, const void *right)
{
    const struct acl_entry *a = left, *b = right;
    if (a->tag != b->tag) return a->tag < b->tag ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int append_acl(struct buffer *ret, struct acl_entry *entries, size_t count)
{
    qsort(entries, count, sizeof *entries, compare_acl_entries);
    int status = buffer_append_le32(ret, ACL_VERSION);
    for (size_t i = 0; i < count && status == 0; i++) {
        status = buffer_append_le32(ret, entries[i].tag | (uint32_t)entries[i].permissions << 16);
        if (status == 0) status = buffer_append_le32(ret, entries[i].id);
    }
    return status;
}

/* Lines, or entries with commas between; '#' starts a comment. */
static int read_acl_entries(const char *text, struct acl_entry *entries, size_t *ret_count,
                            struct error **error)
{
    int unnumbered = 0;
    *ret_count = 0;
    while (*text) {
        size_t length = strcspn(text, ",\n");
        struct text line = trimmed(text, strcspn(text, ",\n#"));
        if (text[strcspn(text, ",\n#")] == '#') length = strcspn(text, "\n");
        text += length + (text[length] != 0);
        if (line.length == 0) continue;
        if (*ret_count == ACL_ENTRIES_MAX) return malformed(error);
        int status = read_acl_entry(line, &entries[*ret_count], error);
        if (status < 0) return -1;
        unnumbered |= status;
        ++*ret_count;
    }
    return unnumbered;
}

int acl_from_text(const char *text, struct buffer *ret, struct error **error)
{
    struct acl_entry *entries = calloc(ACL_ENTRIES_MAX, sizeof *entries);
    size_t count = 0;
    if (!entries) return error_set_memory(error);
    int status = read_acl_entries(text, entries, &count, error);
    if (status == 0 && append_acl(ret, entries, count) < 0) status = error_set_memory(error);
    free(entries);
    return status;
}

/* The kernel's posix_acl_valid(): the tags in ascending order, the three of the mode once each, and
 * a mask where somebody is named. */
static bool entry_follows(const struct acl_entry *entry, unsigned before)
{
    bool named = entry->tag == ACL_USER || entry->tag == ACL_GROUP;
    if (entry->permissions > 7) return false;
    if (named && entry->id == ACL_UNDEFINED_ID) return false;
    switch (entry->tag) {
    case ACL_USER_OBJ:
        return before == 0;
    case ACL_USER:
        return before == ACL_USER_OBJ || before == ACL_USER;
    case ACL_GROUP_OBJ:
        return before == ACL_USER_OBJ || before == ACL_USER;
    case ACL_GROUP:
    case ACL_MASK:
        return before == ACL_GROUP_OBJ || before == ACL_GROUP;
    case ACL_OTHER:
        return before == ACL_GROUP_OBJ || before == ACL_MASK;
    default:
        return false;
    }
}

int acl_check(const void *value, size_t length, bool *ret_empty, struct error **error)
{
    struct cursor cursor = cursor_of(value, length);
    unsigned before = 0;
    bool named = false, masked = false;
    if (cursor_le32(&cursor) != ACL_VERSION || cursor.failed) return malformed(error);
    *ret_empty = cursor_left(&cursor) == 0;
    while (cursor_left(&cursor) > 0) {
        struct acl_entry entry = { .tag = cursor_le16(&cursor) };
        entry.permissions = cursor_le16(&cursor);
        entry.id = cursor_le32(&cursor);
        if (cursor.failed || !entry_follows(&entry, before)) return malformed(error);
        named |= entry.tag == ACL_USER || entry.tag == ACL_GROUP;
        masked |= entry.tag == ACL_MASK;
        before = entry.tag;
    }
    bool complete = before == ACL_OTHER && (!named || masked);
    return *ret_empty || complete ? 0 : malformed(error);
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int xattr_name_decode(const char *text, size_t length, struct buffer *ret, struct error **error)
{
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (text[i] == '%' && length - i > 2 && digit_of(text[i + 1]) >= 0 &&
            digit_of(text[i + 2]) >= 0) {
            byte = (uint8_t)(digit_of(text[i + 1]) << 4 | digit_of(text[i + 2]));
            i += 2;
        }
        if (byte == 0)
            return error_set(error, ERROR_INVALID, "the name of an attribute holds a NUL");
        if (buffer_append_u8(ret, byte) < 0) return error_set_memory(error);
    }
    return 0;
}

static int sextet_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    return c == '/' ? 63 : -1;
}

int xattr_value_decode(const char *text, size_t length, struct buffer *ret, struct error **error)
{
    uint32_t bits = 0;
    unsigned count = 0; /* of bits that wait */
    while (length > 0 && text[length - 1] == '=')
        length--;
    for (size_t i = 0; i < length; i++) {
        int sextet = sextet_of(text[i]);
        if (sextet < 0)
            return error_set(error, ERROR_INVALID, "the value of an attribute is no base 64");
        bits = (bits << 6 | (uint32_t)sextet) & 0xffffff;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        if (buffer_append_u8(ret, (uint8_t)(bits >> count)) < 0) return error_set_memory(error);
    }
    if (count == 6)
        return error_set(error, ERROR_INVALID, "the value of an attribute is no base 64");
    return 0;
}
