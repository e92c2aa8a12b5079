#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/rootfs-internal.h"

/* The kernel asks for a page at a time, newer ones for up to max_pages; more than this saves
 * nothing. */
#define LISTING_MAX (256u << 10)

static bool is_dot_or_dot_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Appends one entry. The length it takes (more than `room`: it was not written), or a negative
 * errno. */
static ssize_t add_entry(fuse_req_t request, const struct erofs_dirent *dirent,
                         bool with_attributes, char *to, size_t room)
{
    const struct rootfs *rootfs = fuse_server_context(request);
    char name[NAME_MAX + 1];
    if (dirent->name_length > NAME_MAX || dirent->next_cookie > INT64_MAX) return -EIO;
    memcpy(name, dirent->name, dirent->name_length);
    name[dirent->name_length] = 0;

    struct fuse_entry_param entry = { .attr = { .st_ino = dirent->nid,
                                                .st_mode = DTTOIF(dirent->type) } };
    off_t next = (off_t)dirent->next_cookie;
    if (!with_attributes)
        return (ssize_t)fuse_add_direntry(request, to, room, name, &entry.attr, next);
    /* Node 0 says: no attributes, nothing to remember. The kernel wants no others of these two. */
    if (!is_dot_or_dot_dot(name)) {
        struct erofs_inode inode;
        int result = erofs_image_inode(rootfs->image, dirent->nid, &inode);
        if (result < 0) return result;
        rootfs_fill_entry(rootfs, &inode, &entry);
    }
    return (ssize_t)fuse_add_direntry_plus(request, to, room, name, &entry, next);
}

/* As many entries from `cookie` on as fit. Their length, or a negative errno if there is none. */
static ssize_t list(fuse_req_t request, const struct erofs_inode *directory, uint64_t cookie,
                    bool with_attributes, char *listing, size_t capacity)
{
    const struct rootfs *rootfs = fuse_server_context(request);
    size_t length = 0;
    for (;;) {
        struct erofs_dirent dirent;
        int result = erofs_image_readdir(rootfs->image, directory, cookie, &dirent);
        if (result == 0) return (ssize_t)length;
        ssize_t added = result < 0 ? result
                                   : add_entry(request, &dirent, with_attributes, listing + length,
                                               capacity - length);
        if (added < 0) {
            log_error("metadata: directory %llu: %s", (unsigned long long)directory->nid,
                      strerror((int)-added));
            return length > 0 ? (ssize_t)length : added;
        }
        if ((size_t)added > capacity - length) return (ssize_t)length;
        length += (size_t)added;
        cookie = dirent.next_cookie;
    }
}

static void reply_listing(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                          bool with_attributes)
{
    struct rootfs *rootfs = fuse_server_context(request);
    struct erofs_inode directory;
    int result = rootfs_inode(rootfs, node, &directory);
    if (!result && !S_ISDIR(directory.mode)) result = -ENOTDIR;
    if (!result && offset < 0) result = -EINVAL;
    if (result < 0) {
        fuse_reply_err(request, -result);
        return;
    }
    size_t capacity = size < LISTING_MAX ? size : LISTING_MAX;
    cleanup_free char *listing = malloc(capacity ? capacity : 1);
    ssize_t length =
        listing ? list(request, &directory, (uint64_t)offset, with_attributes, listing, capacity)
                : -ENOMEM;
    length = rootfs_checked(rootfs, length);
    if (length < 0)
        fuse_reply_err(request, (int)-length);
    else
        fuse_reply_buf(request, listing, (size_t)length);
}

void rootfs_readdir(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *file)
{
    (void)file;
    reply_listing(request, node, size, offset, false);
}

void rootfs_readdirplus(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                        struct fuse_file_info *file)
{
    (void)file;
    reply_listing(request, node, size, offset, true);
}
