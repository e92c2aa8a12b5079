/* Extended attributes, which our images keep in the inodes. */
#include <errno.h>
#include <string.h>

#include "index/erofs-internal.h"

/* In the order of the names, which is also the order of attributes. */
static const struct erofs_xattr_prefix prefixes[] = {
    { 6, "security.", 9, false },
    { 2, "system.posix_acl_access", 23, true },
    { 3, "system.posix_acl_default", 24, true },
    { 4, "trusted.", 8, false },
    { 1, "user.", 5, false },
};

const struct erofs_xattr_prefix *erofs_xattr_prefix_of(const char *name)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        const struct erofs_xattr_prefix *prefix = &prefixes[i];
        if (strncmp(name, prefix->text, prefix->length) != 0) continue;
        /* The kernel refuses names that are only a prefix. */
        return prefix->whole == !name[prefix->length] ? prefix : NULL;
    }
    return NULL;
}

const struct erofs_xattr_prefix *erofs_xattr_prefix_numbered(uint8_t number)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (prefixes[i].number == number) return &prefixes[i];
    return NULL;
}

int erofs_xattr_walk_start(const struct erofs_image *image, const struct erofs_inode *inode,
                           struct erofs_xattr_walk *ret)
{
    uint32_t header = sizeof(struct erofs_disk_xattrs);
    *ret = (struct erofs_xattr_walk){ NULL, 0 };
    if (inode->xattr_size == 0) return 0;
    const uint8_t *start = erofs_bytes(
        image, inode->header_offset + sizeof(struct erofs_disk_inode), inode->xattr_size);
    if (!start || inode->xattr_size < header) return -EIO;
    *ret = (struct erofs_xattr_walk){ start + header, inode->xattr_size - header };
    return 0;
}

int erofs_xattr_walk_next(struct erofs_xattr_walk *walk, struct erofs_xattr *ret)
{
    const struct erofs_disk_xattr *disk = (const void *)walk->next;
    if (walk->left == 0) return 0;
    if (walk->left < sizeof *disk) return -EIO;
    uint32_t value_length = le16toh(disk->value_length);
    uint32_t length = (uint32_t)sizeof *disk + disk->name_length + value_length;
    uint32_t padded = (uint32_t)erofs_round_up(length, 4);
    if (padded > walk->left) return -EIO;
    ret->prefix = erofs_xattr_prefix_numbered(disk->prefix);
    if (!ret->prefix) return -EIO;
    ret->suffix = (const char *)walk->next + sizeof *disk;
    ret->suffix_length = disk->name_length;
    ret->value = walk->next + sizeof *disk + disk->name_length;
    ret->value_length = value_length;
    walk->next += padded;
    walk->left -= padded;
    return 1;
}

ssize_t erofs_image_getxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                             const char *name, const void **ret_value)
{
    const struct erofs_xattr_prefix *prefix = erofs_xattr_prefix_of(name);
    if (!prefix) return -ENODATA;
    const char *suffix = name + prefix->length;
    size_t suffix_length = strlen(suffix);
    struct erofs_xattr_walk walk;
    struct erofs_xattr xattr;
    int status = erofs_xattr_walk_start(image, inode, &walk);
    while (status == 0 && (status = erofs_xattr_walk_next(&walk, &xattr)) > 0) {
        status = 0;
        if (xattr.prefix != prefix || xattr.suffix_length != suffix_length ||
            memcmp(xattr.suffix, suffix, suffix_length) != 0)
            continue;
        *ret_value = xattr.value;
        return xattr.value_length;
    }
    return status < 0 ? status : -ENODATA;
}

ssize_t erofs_image_listxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                              char *names, size_t capacity)
{
    struct erofs_xattr_walk walk;
    struct erofs_xattr xattr;
    size_t total = 0;
    int status = erofs_xattr_walk_start(image, inode, &walk);
    if (status < 0) return status;
    while ((status = erofs_xattr_walk_next(&walk, &xattr)) > 0) {
        size_t length = xattr.prefix->length + xattr.suffix_length + 1;
        if (capacity > 0 && length > capacity - total) return -ERANGE;
        if (capacity > 0) {
            memcpy(names + total, xattr.prefix->text, xattr.prefix->length);
            memcpy(names + total + xattr.prefix->length, xattr.suffix, xattr.suffix_length);
            names[total + length - 1] = 0;
        }
        total += length;
    }
    return status < 0 ? status : (ssize_t)total;
}
