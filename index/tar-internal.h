/* What the parts of the tar reader share. */
#ifndef SLUICE_INDEX_TAR_INTERNAL_H
#define SLUICE_INDEX_TAR_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "index/entry_table.h"

#define TAR_BLOCK 512u

/* A PAX extended header, or a GNU long name, takes no more than this. */
#define TAR_META_BYTES_MAX (1u << 20)
/* Records that mean something, in one header and in all global ones together; real files have a
 * handful. */
#define TAR_RECORDS_MAX 256

/* ---- tar_sparse.c: the map of a sparse file ---- */

/* Segments as an archive names them, put in the form that an entry wants. A zeroed struct holds
 * none. */
struct sparse_segments {
    struct entry_segment *segments; /* not empty, not touching each other */
    size_t count, capacity;
    uint64_t named;       /* how many the archive named */
    uint64_t end;         /* of the last one named */
    uint64_t data_length; /* of all */
};

void sparse_segments_clear(struct sparse_segments *sparse);
void sparse_segments_free(struct sparse_segments *sparse);
/* In the order of the archive, which must be that of the file. */
int sparse_segments_add(struct sparse_segments *sparse, uint64_t offset, uint64_t length,
                        struct error **error);
/* "offset,length,offset,length,...": GNU.sparse.map. */
int sparse_segments_add_list(struct sparse_segments *sparse, const char *list,
                             struct error **error);
/* The map is complete: makes `entry` sparse, unless it has no hole. `entry` borrows the segments;
 * `archived` is how many bytes of data the archive has for it. */
int sparse_segments_finish(const struct sparse_segments *sparse, uint64_t real_size,
                           uint64_t archived, struct entry *entry, struct error **error);

/* Old GNU headers (type 'S'): the first block tells the size, and both kinds whether one more block
 * follows. */
int sparse_read_header(struct sparse_segments *sparse, const uint8_t *block,
                       uint64_t *ret_real_size, bool *ret_more, struct error **error);
int sparse_read_extension(struct sparse_segments *sparse, const uint8_t *block, bool *ret_more,
                          struct error **error);

/* PAX 1.0: decimal lines before the data, padded to whole blocks. A zeroed struct is the start. */
struct sparse_lines {
    uint64_t number; /* the line so far */
    unsigned digits;
    bool has_count, has_offset;
    uint64_t left; /* segments */
    uint64_t offset;
};
/* Takes the next block; *ret_more tells whether the map goes on behind it. */
int sparse_read_lines(struct sparse_segments *sparse, struct sparse_lines *lines,
                      const uint8_t *block, bool *ret_more, struct error **error);

/* ---- tar_pax.c: PAX records as they are kept; tar_pax_apply.c: what they say ---- */

/* Keys, and starts of keys. */
#define XATTR_PREFIX         "SCHILY.xattr."
#define ENCODED_XATTR_PREFIX "LIBARCHIVE.xattr."
#define ACL_ACCESS_KEY       "SCHILY.acl.access"
#define ACL_DEFAULT_KEY      "SCHILY.acl.default"

#define SPARSE_PREFIX "GNU.sparse."

/* The records of PAX headers that mean something to us. A zeroed struct holds none. */
struct pax_record {
    size_t key, value; /* offsets into `storage`; both end in NUL there */
    size_t key_length, value_length;
};

struct pax_records {
    struct buffer storage;
    struct pax_record *records;
    size_t count, capacity;
    struct sparse_segments sparse; /* GNU.sparse.map, or the pairs of version 0.0 */
    bool has_sparse_map;
    bool has_sparse_offset; /* GNU.sparse.offset came, its numbytes has not yet */
    uint64_t sparse_offset;
    bool has_unnumbered_acl; /* one names somebody without a number, and was left out */
};

static inline const char *pax_key(const struct pax_records *pax, size_t position)
{
    return (const char *)pax->storage.data + pax->records[position].key;
}

static inline const char *pax_value(const struct pax_records *pax, size_t position)
{
    return (const char *)pax->storage.data + pax->records[position].value;
}

static inline bool pax_key_is(const char *key, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(key, name, length) == 0;
}

static inline bool pax_key_starts(const char *key, size_t length, const char *start)
{
    size_t start_length = strlen(start);
    return length >= start_length && memcmp(key, start, start_length) == 0;
}

/* The record's position, or -1. */
ptrdiff_t pax_find(const struct pax_records *pax, const char *key, size_t length);

void pax_records_free(struct pax_records *pax);
void pax_records_clear(struct pax_records *pax);
/* Adds the records of one header's data; a key that is there already is replaced. On failure `pax`
 * is to be cleared. */
int pax_records_parse(struct pax_records *pax, const void *data, size_t length,
                      struct error **error);

struct tar_header;
/* Lets the records speak, those of `local` over those of `global`. */
int pax_records_apply(const struct pax_records *global, const struct pax_records *local,
                      struct tar_header *header, struct error **error);

/* ---- tar_xattr.c: attributes that PAX records tell in a form of their own ---- */

#define ACL_ACCESS_NAME  "system.posix_acl_access"
#define ACL_DEFAULT_NAME "system.posix_acl_default"

/* An ACL as text (acl(5), also with star's numbers in a fourth field) in the kernel's binary form
 * (linux/posix_acl_xattr.h). 1: it names somebody without a number. */
int acl_from_text(const char *text, struct buffer *ret, struct error **error);
/* Whether the kernel would take the value. One without entries is as good as none. */
int acl_check(const void *value, size_t length, bool *ret_empty, struct error **error);
/* "%XX" is one byte. */
int xattr_name_decode(const char *text, size_t length, struct buffer *ret, struct error **error);
/* Base 64; its padding may lack. */
int xattr_value_decode(const char *text, size_t length, struct buffer *ret, struct error **error);

/* ---- tar_header.c: the block ---- */

enum tar_sparse_form {
    TAR_NOT_SPARSE,
    TAR_SPARSE_OLD,  /* the map is in this block and those that follow */
    TAR_SPARSE_PAX,  /* ... in PAX records */
    TAR_SPARSE_DATA, /* ... before the data */
};

/* One header as it is understood so far: the header block, then PAX global and local, then GNU
 * long names. Texts are borrowed from where they were found. */
struct tar_header {
    char type;
    char block_name[300], block_link[101];
    const char *name, *link;
    uint32_t mode;
    uint32_t uid, gid;
    uint64_t size; /* of the data in the archive */
    int64_t mtime;
    uint32_t mtime_nsec;
    uint32_t device_major, device_minor;
    enum tar_sparse_form sparse;
    uint64_t real_size; /* of the sparse file */
    bool has_real_size;
    const char *sparse_name;
    struct entry_xattr *xattrs; /* room for 2 * TAR_RECORDS_MAX */
    size_t xattr_count;
};

/* Octal with blanks around it, or GNU's base 256 (top bit set, two's complement). */
int tar_number(const uint8_t *field, size_t length, int64_t *ret);
/* Decimal digits; goes on behind them. */
int tar_decimal(const char **text, uint64_t *ret);
int tar_size(const uint8_t *field, uint64_t *ret, struct error **error);
bool tar_block_is_zero(const uint8_t *block);
bool tar_block_is_gnu(const uint8_t *block);
int tar_check_checksum(const uint8_t *block);
/* Type, names and size; that is all that headers of other headers have. */
int tar_header_start(struct tar_header *header, const uint8_t *block, struct error **error);
int tar_header_read(struct tar_header *header, const uint8_t *block, struct error **error);

/* ---- tar_entry.c: what the header means ---- */

/* Whether the type is followed by data. */
bool tar_type_has_data(char type);
/* Whether the type stands for nothing in a file tree: a volume's label. */
bool tar_type_is_passed_over(char type);
/* Appends what the header says; `sparse` is used if the header's file is sparse. */
int tar_entry_append(struct entry_table *table, const struct tar_header *header,
                     const struct sparse_segments *sparse, uint64_t data_offset,
                     struct error **error);

#endif
