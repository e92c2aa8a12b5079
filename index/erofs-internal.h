/*
 * EROFS on disk, as far as our images use it, and the layout that the writer
 * makes and the validator demands.
 *
 * Source: the kernel's Documentation/filesystems/erofs.rst and the layout of
 * fs/erofs/erofs_fs.h. All numbers are little-endian; a packed struct may lie
 * at any address.
 */
#ifndef SLUICE_INDEX_EROFS_INTERNAL_H
#define SLUICE_INDEX_EROFS_INTERNAL_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/error.h"
#include "index/erofs_image.h"
#include "index/file-tree-internal.h"
#include "index/merge.h"

#define EROFS_BLOCK_BITS        9 /* offsets in a tar are multiples of 512 */
#define EROFS_BLOCK             512u
#define EROFS_SLOT              32u /* an inode's number is its offset in these */
#define EROFS_SUPERBLOCK_OFFSET 1024u
#define EROFS_MAGIC             0xe0f5e1e2u
#define EROFS_NAME_MAX          255u

/* MTIME. Not SB_CHKSUM: erofs-utils 1.8 crashes on it when blocks are smaller than the superblock's
 * offset, and its own mkfs leaves it out then. */
#define EROFS_COMPATIBLE   0x2u
#define EROFS_INCOMPATIBLE 0xcu /* CHUNKED_FILE | DEVICE_TABLE */

/* Marks our layout and its version: another layout gets another name. */
#define EROFS_VOLUME_NAME "sluice-1"

typedef uint16_t le16;
typedef uint32_t le32;
typedef uint64_t le64;
#define EROFS_ON_DISK __attribute__((packed))

struct erofs_disk_superblock {
    le32 magic;
    le32 checksum; /* not used */
    le32 feature_compatible;
    uint8_t block_bits;
    uint8_t extension_slots;
    le16 root_nid;
    le64 inode_count;
    le64 build_time;
    le32 build_time_nsec;
    le32 blocks;
    le32 meta_block;
    le32 xattr_block;
    uint8_t uuid[16];
    uint8_t volume_name[16];
    le32 feature_incompatible;
    le16 compression_algorithms;
    le16 device_count;
    le16 device_table_slot; /* in slots of 128 bytes */
    uint8_t directory_block_bits;
    uint8_t xattr_prefix_count;
    le32 xattr_prefix_start;
    le64 packed_nid;
    uint8_t reserved[24];
} EROFS_ON_DISK;

struct erofs_disk_device {
    uint8_t tag[64]; /* the layer's diffID in hex; EROFS_SPARSE_TAG */
    le32 blocks;
    le32 mapped_block;
    uint8_t reserved[56];
} EROFS_ON_DISK;

#define EROFS_DEVICE_TABLE_OFFSET (EROFS_SUPERBLOCK_OFFSET + 128u)
#define EROFS_SPARSE_TAG          "sparse"

struct erofs_disk_inode { /* the "extended" form */
    le16 format;          /* bit 0: extended; from bit 1: the layout */
    le16 xattr_count;     /* 0, or 1 + the bytes behind the attributes' header / 4 */
    le16 mode;
    le16 reserved;
    le64 size;
    le32 place; /* block of data, chunk format, or device number */
    le32 number;
    le32 uid;
    le32 gid;
    le64 mtime;
    le32 mtime_nsec;
    le32 link_count;
    uint8_t reserved2[16];
} EROFS_ON_DISK;

enum erofs_layout {
    EROFS_FLAT_PLAIN = 0,  /* data in whole blocks */
    EROFS_FLAT_INLINE = 2, /* the last, broken block follows the inode */
    EROFS_CHUNKED = 4,     /* chunk indexes follow the inode */
};

struct erofs_disk_chunk {
    le16 advise;
    le16 device;
    le32 block;
} EROFS_ON_DISK;

#define EROFS_CHUNK_BITS_MAX 31u   /* above the block bits: chunks of 1 TiB */
#define EROFS_CHUNK_INDEXES  0x20u /* in the chunk format */
#define EROFS_HOLE           UINT32_MAX
/* A sparse file has chunks of this size at least, and this many at most. */
#define EROFS_SPARSE_BITS_MIN   3u
#define EROFS_SPARSE_CHUNKS_MAX 1024u
#define EROFS_SPARSE_SIZE_MAX   ((uint64_t)EROFS_SPARSE_CHUNKS_MAX << (EROFS_BLOCK_BITS + 31))

struct erofs_disk_dirent {
    le64 nid;
    le16 name_offset;
    uint8_t type;
    uint8_t reserved;
} EROFS_ON_DISK;

struct erofs_disk_xattrs { /* the header, before the entries */
    le32 name_filter;
    uint8_t shared_count;
    uint8_t reserved[7];
} EROFS_ON_DISK;

struct erofs_disk_xattr { /* name and value follow, then zeros up to a multiple of 4 */
    uint8_t name_length;  /* without the prefix */
    uint8_t prefix;
    le16 value_length;
} EROFS_ON_DISK;

_Static_assert(sizeof(struct erofs_disk_superblock) == 128, "superblock");
_Static_assert(sizeof(struct erofs_disk_device) == 128, "device slot");
_Static_assert(sizeof(struct erofs_disk_inode) == 64, "inode");
_Static_assert(sizeof(struct erofs_disk_chunk) == 8, "chunk index");
_Static_assert(sizeof(struct erofs_disk_dirent) == 12, "directory entry");
_Static_assert(sizeof(struct erofs_disk_xattrs) == 12, "attributes");
_Static_assert(sizeof(struct erofs_disk_xattr) == 4, "attribute");

#define EROFS_XATTR_BYTES_MAX (12u + 65534u * 4u)

static inline uint64_t erofs_round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* The bytes in place; NULL: not inside the image. Every access goes through this, since the memory
 * may be a mapped file that somebody changes after it was validated. */
static inline const void *erofs_bytes(const struct erofs_image *image, uint64_t offset,
                                      uint64_t length)
{
    if (offset > image->size || length > image->size - offset) return NULL;
    return image->data + offset;
}

/* Behind the inode and its attributes. */
static inline uint64_t erofs_payload_offset(const struct erofs_inode *inode)
{
    return inode->header_offset + sizeof(struct erofs_disk_inode) + inode->xattr_size;
}

/* Attributes are stored with a number in place of a prefix. Higher addresses of these are later in
 * the order of the names. */
struct erofs_xattr_prefix {
    uint8_t number;
    const char *text;
    size_t length;
    bool whole; /* the prefix is the name */
};
/* The prefix of a name, or NULL: EROFS has no room for that namespace. */
const struct erofs_xattr_prefix *erofs_xattr_prefix_of(const char *name);
/* By number; NULL: not one of ours. */
const struct erofs_xattr_prefix *erofs_xattr_prefix_numbered(uint8_t number);

/* Walks the attributes of an inode. */
struct erofs_xattr_walk {
    const uint8_t *next;
    uint32_t left;
};

struct erofs_xattr {
    const struct erofs_xattr_prefix *prefix;
    const char *suffix; /* not NUL-terminated */
    uint32_t suffix_length;
    const uint8_t *value;
    uint32_t value_length;
};

int erofs_xattr_walk_start(const struct erofs_image *image, const struct erofs_inode *inode,
                           struct erofs_xattr_walk *ret);
/* 1: *ret is filled, 0: no more, or a negative errno. */
int erofs_xattr_walk_next(struct erofs_xattr_walk *walk, struct erofs_xattr *ret);

/* Directory entries tell the type once more (as the kernel's FT_*); 0 for a mode without type. */
uint8_t erofs_file_type(uint32_t mode);

/* Chunk bits above the block bits: so that as few chunks as can be cover `size` > 0 bytes, and for
 * a sparse file of that size. */
unsigned erofs_chunk_bits(uint64_t size);
unsigned erofs_sparse_chunk_bits(uint64_t size);
static inline uint64_t erofs_chunk_count(uint64_t size, unsigned bits)
{
    return ((size - 1) >> (EROFS_BLOCK_BITS + bits)) + 1;
}

/* Where an inode goes that follows `cursor`, and what lies where around it. `chunk_bits` is for
 * regular files with a size. */
struct erofs_placement {
    enum erofs_layout layout;
    uint64_t offset;  /* of the inode */
    uint64_t payload; /* offset of inline data or chunk indexes */
    uint64_t end;     /* behind all of it */
    uint64_t blocks;  /* how many whole blocks of data lie outside */
};
struct erofs_placement erofs_place(uint64_t cursor, uint32_t mode, uint32_t xattr_bytes,
                                   uint64_t size, unsigned chunk_bits);

/* erofs_sparse.c: sparse files on the sparse device. */
/* How many blocks of the device the file takes. */
uint64_t erofs_sparse_blocks(const struct entry *entry);
/* Writes the file's chunk indexes and its records of the sparse map. `first_block` is its place on
 * the device. */
void erofs_sparse_write(const struct entry *entry, uint32_t layer, uint16_t device,
                        uint32_t first_block, struct erofs_disk_chunk *chunks, uint8_t *records);

/* How far the validator has come. */
struct erofs_sparse_check {
    const struct erofs_image *image;
    const uint64_t *layer_lengths;
    uint64_t blocks, records; /* of the device and the map that belong to files seen */
};
/* True where chunk indexes are those of a sparse file. */
bool erofs_chunks_are_sparse(const struct erofs_image *image,
                             const struct erofs_disk_chunk *chunks);
/* Goes on with the next sparse file. NULL, or what is wrong with it. */
const char *erofs_sparse_check(struct erofs_sparse_check *check, uint64_t size,
                               const struct erofs_disk_chunk *chunks);

/* Told from layout and device table alone: the same layers give the same number, others another, so
 * that overlayfs can tell file systems apart. -1: out of memory. */
int erofs_uuid_of(const void *device_table, uint32_t device_count, uint8_t uuid[16]);

/* Sorts, lays out and writes the tree. Uses the tree's fields for the writer. */
int erofs_write(struct file_tree *tree, const struct merge_layer *layers, size_t count,
                struct buffer *ret, struct error **error);

#endif
