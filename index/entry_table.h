/*
 * What one layer says, in the order of its tar: entries, whiteouts, links.
 *
 * It is not a file tree: parents may be implied, hard links may reach into
 * lower layers, whiteouts mean something only above others. index/merge.h makes
 * a tree of a chain of such tables.
 */
#ifndef SLUICE_INDEX_ENTRY_TABLE_H
#define SLUICE_INDEX_ENTRY_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

enum entry_type {
    ENTRY_REGULAR = 1,
    ENTRY_DIRECTORY,
    ENTRY_SYMLINK,
    ENTRY_HARDLINK, /* target names another path of this or a lower layer; only path and target
                       count */
    ENTRY_CHARACTER_DEVICE,
    ENTRY_BLOCK_DEVICE,
    ENTRY_FIFO,
    ENTRY_WHITEOUT, /* path (without ".wh.") is hidden in the lower layers */
    ENTRY_OPAQUE,   /* all that the lower layers have in directory path is hidden */
};

struct entry_xattr {
    const char *name; /* full name, "user.x", "security.capability"; at most 255 bytes, no NUL */
    const void *value;
    uint32_t value_length; /* at most 65,535 */
};

/* A run of a file's bytes that are not a hole. */
struct entry_segment {
    uint64_t offset, length;
};
#define ENTRY_SEGMENTS_MAX (1u << 20) /* in one file */

/* Paths are relative and clean: no leading, trailing or doubled '/', no "." or ".." component, no
 * NUL, components of at most 255 bytes, 4,095 bytes at most; "" is the root (type directory or
 * opaque only). */
struct entry {
    enum entry_type type;
    const char *path; /* NUL-terminated */
    const char
        *target;   /* symlink: as it stands, 1 to 4,095 bytes; hard link: a clean path; else NULL */
    uint32_t mode; /* permission bits, 07777; a symlink's is kept as 0777, as Linux has it */
    uint32_t uid, gid;
    int64_t mtime; /* seconds */
    uint32_t mtime_nsec;
    uint64_t size;        /* regular files: bytes */
    uint64_t data_offset; /* regular files with data: where in the stream; a multiple of 512 */
    /* Regular files that have a hole. Their data stands in the stream segment after segment.
     * Segments are sorted, not empty, do not touch each other and end within `size`. */
    bool sparse;
    const struct entry_segment *segments;
    uint32_t segment_count;
    uint32_t device_major, device_minor; /* devices: at most 0xfff and 0xfffff */
    const struct entry_xattr *xattrs;    /* sorted by name, no name twice, no trusted.overlay.* */
    uint32_t xattr_count;
};

/* How many bytes of the stream are the entry's data. */
uint64_t entry_data_length(const struct entry *entry);

/* Owns the memory of its entries (an arena; entries keep their address). */
struct entry_table;

struct entry_table *entry_table_new(void); /* NULL: out of memory */
/* Copies `entry` and all it points to, after checking every rule above (ERROR_INVALID); fields that
 * mean nothing for its type become 0. ERROR_UNSUPPORTED when the table would take more than 1 GiB.
 */
int entry_table_append(struct entry_table *table, const struct entry *entry, struct error **error);
size_t entry_table_count(const struct entry_table *table);
const struct entry *entry_table_get(const struct entry_table *table, size_t position);
/* Bytes of memory that the entries take. */
uint64_t entry_table_memory(const struct entry_table *table);
void entry_table_free(struct entry_table *table);

/* The format of docs/formats.md: magic and version, then compact records (paths as a
 * difference to the one before). Deterministic. */
int entry_table_encode(const struct entry_table *table, struct buffer *ret, struct error **error);
/* Hostile bytes in; refuses what the encoder would not have written. `stream_length` bounds data.
 */
int entry_table_decode(struct entry_table **ret, const void *data, size_t length,
                       uint64_t stream_length, struct error **error);

/* How many records the table in `data` says that it has; its first ENTRY_TABLE_HEAD_BYTES (or all
 * of it, if that is less) are enough to know. */
#define ENTRY_TABLE_HEAD_BYTES 22u
int entry_table_read_count(const void *data, size_t length, uint64_t *ret, struct error **error);

#endif
