/*
 * Reading a metadata image in place (memory that holds a whole EROFS image
 * without file data, as merge_layers() makes it).
 *
 * erofs_image_open() checks the superblock and device table, and
 * erofs_image_validate() walks everything; after that the other functions
 * cannot fail on format and never read outside the memory. They still check
 * bounds on each access and answer -EIO, since the memory may be a mapped file.
 */
#ifndef SLUICE_INDEX_EROFS_IMAGE_H
#define SLUICE_INDEX_EROFS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/digest.h"
#include "base/error.h"
#include "index/sparse_map.h"

#define EROFS_DEVICES_MAX 512 /* layers */

struct erofs_image {
    const uint8_t *data; /* borrowed */
    uint64_t size;       /* of the EROFS image, without the sparse map behind it */
    uint64_t root_nid;
    uint64_t inode_count;
    uint32_t device_count; /* layers */
    uint64_t device_table_offset;
    uint32_t sparse_device; /* device_count + 1, or 0: no file needs it */
    uint64_t sparse_blocks; /* its length / 512 */
    struct sparse_map sparse_map;
    bool has_xattrs, has_acls; /* some inode; known once it is validated */
};

/* `data` is all of the metadata: the EROFS image and the sparse map. */
int erofs_image_open(struct erofs_image *ret, const void *data, uint64_t size,
                     struct error **error);
/* Walks every inode, directory, extent and attribute; accepts what our writer writes and nothing
 * else. `device_lengths[i]` is the length in bytes of device i + 1's stream. That the tags are the
 * layers' diffIDs is for the caller to check, with erofs_image_device(). About 40 ns an inode. */
int erofs_image_validate(struct erofs_image *image, const uint64_t *device_lengths,
                         uint32_t device_count, struct error **error);
/* Layer device `device` (from 1): its length rounded up to 512, and its tag (the layer's diffID).
 */
int erofs_image_device(const struct erofs_image *image, uint32_t device, uint64_t *ret_length,
                       struct digest *ret_tag, struct error **error);

struct erofs_inode {
    uint64_t nid;
    uint32_t mode; /* with the file type, as st_mode */
    uint32_t link_count;
    uint32_t uid, gid;
    uint64_t size;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t rdev;          /* as the kernel's new_encode_dev() */
    uint64_t header_offset; /* for this file's own use below */
    uint32_t xattr_size;
    uint16_t layout;
    uint32_t start_block; /* or chunk format */
};

/* All return 0 or a negative errno. */
int erofs_image_inode(const struct erofs_image *image, uint64_t nid, struct erofs_inode *ret);
/* -ENOENT when the directory has no such name. */
int erofs_image_lookup(const struct erofs_image *image, const struct erofs_inode *directory,
                       const char *name, size_t length, uint64_t *ret_nid);

struct erofs_dirent {
    const char *name; /* not NUL-terminated */
    size_t name_length;
    uint64_t nid;
    uint8_t type;         /* DT_* of <dirent.h> */
    uint64_t next_cookie; /* where to go on after this one */
};
/* The entry at `cookie` (0 is the first; "." and ".." are among them). 1: *ret is filled,
 * 0: the end, or a negative errno. */
int erofs_image_readdir(const struct erofs_image *image, const struct erofs_inode *directory,
                        uint64_t cookie, struct erofs_dirent *ret);

/* Points into the image; not NUL-terminated. */
int erofs_image_symlink(const struct erofs_image *image, const struct erofs_inode *inode,
                        const char **ret_target, size_t *ret_length);

struct erofs_extent {
    uint32_t device;        /* a layer's, from 1; 0: a hole, reads as zeros */
    uint64_t device_offset; /* bytes */
    uint64_t length;        /* bytes of the file, from the offset asked for; never past its end */
};
/* Where byte `offset` (< size) of a regular file is. What EROFS finds on the sparse device is
 * looked up in the sparse map. The data of one file stands in one piece in its layer's stream,
 * whatever holes the file has. */
int erofs_image_map(const struct erofs_image *image, const struct erofs_inode *inode,
                    uint64_t offset, struct erofs_extent *ret);
/* How many bytes of a regular file are no holes; 0 for others. */
uint64_t erofs_image_stored_bytes(const struct erofs_image *image, const struct erofs_inode *inode);

/* The value's length, with ret_value pointing into the image; -ENODATA when there is none. */
ssize_t erofs_image_getxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                             const char *name, const void **ret_value);
/* Names, each with its NUL, as listxattr(2): their length in all; written only when they fit in
 * `capacity` (0 asks for the length), else -ERANGE. */
ssize_t erofs_image_listxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                              char *names, size_t capacity);

#endif
