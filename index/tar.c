/*
 * The reader is a state machine over 512-byte blocks. Formats: POSIX.1-2017
 * pax ("ustar Interchange Format"), GNU tar manual ("Basic Tar Format").
 * Where readers differ (what wins over what, which types have data), it does
 * as Go's archive/tar, since that is what unpacks images elsewhere.
 */
#include "index/tar.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "index/tar-internal.h"

#define BLOCK          512
#define PATH_BYTES_MAX 4095

/* The header block; fields not used here are skipped. */
#define NAME_OFFSET     0
#define NAME_LENGTH     100
#define MODE_OFFSET     100
#define UID_OFFSET      108
#define GID_OFFSET      116
#define SIZE_OFFSET     124
#define MTIME_OFFSET    136
#define CHECKSUM_OFFSET 148
#define TYPE_OFFSET     156
#define LINK_OFFSET     157
#define MAGIC_OFFSET    257
#define MAJOR_OFFSET    329
#define MINOR_OFFSET    337
#define PREFIX_OFFSET   345

enum tar_state {
    AT_HEADER,
    IN_META, /* the data of a PAX header or GNU long name */
    IN_DATA, /* of a file, or padding: passed over */
    AT_END,  /* after the two blocks of zeros */
    FAILED,
};

struct tar_reader {
    struct entry_table *table;
    enum tar_state state;
    uint64_t position; /* in the stream */

    uint8_t block[BLOCK];
    size_t block_filled;
    bool saw_zero_block;

    uint64_t skip;    /* bytes left to pass over */
    uint64_t padding; /* how many of them are padding, which the last file may lack */

    char meta_type;
    size_t meta_length;
    struct buffer meta;

    struct pax_records global, local;
    struct buffer long_name, long_link; /* with NUL; empty: none */
    struct entry_xattr xattrs[2 * TAR_RECORDS_MAX];
};

struct tar_reader *tar_reader_new(struct entry_table *table)
{
    struct tar_reader *reader = calloc(1, sizeof *reader);
    if (reader) reader->table = table;
    return reader;
}

void tar_reader_free(struct tar_reader *reader)
{
    if (!reader) return;
    buffer_free(&reader->meta);
    buffer_free(&reader->long_name);
    buffer_free(&reader->long_link);
    pax_records_free(&reader->global);
    pax_records_free(&reader->local);
    free(reader);
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

/* Octal with blanks around it, or GNU's base 256 (top bit set, two's complement). */
static int parse_number(const uint8_t *field, size_t length, int64_t *ret)
{
    if (field[0] & 0x80) {
        bool negative = field[0] & 0x40;
        uint64_t value = negative ? UINT64_MAX : 0;
        for (size_t i = 0; i < length; i++) {
            uint8_t byte = i > 0 ? field[i] : negative ? field[i] : field[i] & 0x7f;
            if (value >> 55 != (negative ? 0x1ff : 0)) return -1; /* would lose bits or the sign */
            value = value << 8 | byte;
        }
        *ret = (int64_t)value;
        return 0;
    }
    size_t start = 0, end = length;
    while (start < end && (field[start] == ' ' || field[start] == 0))
        start++;
    while (end > start && (field[end - 1] == ' ' || field[end - 1] == 0))
        end--;
    uint64_t value = 0;
    for (; start < end && field[start] != 0; start++) {
        if (field[start] < '0' || field[start] > '7') return -1;
        value = value << 3 | (uint64_t)(field[start] - '0'); /* 12 digits at most: 36 bits */
    }
    *ret = (int64_t)value;
    return 0;
}

static int check_checksum(const uint8_t *block)
{
    int64_t written;
    uint32_t unsigned_sum = 0;
    int32_t signed_sum = 0; /* what some old writers made */
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t byte = i >= CHECKSUM_OFFSET && i < CHECKSUM_OFFSET + 8 ? ' ' : block[i];
        unsigned_sum += byte;
        signed_sum += (int8_t)byte;
    }
    if (parse_number(block + CHECKSUM_OFFSET, 8, &written) < 0) return -1;
    return written == unsigned_sum || written == signed_sum ? 0 : -1;
}

static bool is_zero_block(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, BLOCK - 1) == 0;
}

static void copy_field(char *to, const uint8_t *field, size_t length)
{
    size_t used = strnlen((const char *)field, length);
    memcpy(to, field, used);
    to[used] = 0;
}

/* "prefix/name" in ustar; star gives the last 24 bytes of the prefix to times; GNU has none. */
static void read_name(const uint8_t *block, char name[300])
{
    size_t prefix_length = 0;
    if (memcmp(block + MAGIC_OFFSET, "ustar\0", 6) == 0) {
        bool star = memcmp(block + 508, "tar\0", 4) == 0;
        prefix_length = strnlen((const char *)block + PREFIX_OFFSET, star ? 131 : 155);
    }
    if (prefix_length) {
        memcpy(name, block + PREFIX_OFFSET, prefix_length);
        name[prefix_length++] = '/';
    }
    copy_field(name + prefix_length, block + NAME_OFFSET, NAME_LENGTH);
}

static int read_u32(const uint8_t *field, const char *what, uint32_t *ret, struct error **error)
{
    int64_t value;
    if (parse_number(field, 8, &value) < 0 || value < 0 || value > UINT32_MAX)
        return error_set(error, ERROR_INVALID, "its %s is out of range", what);
    *ret = (uint32_t)value;
    return 0;
}

static int read_size(const uint8_t *block, uint64_t *ret, struct error **error)
{
    int64_t size;
    if (parse_number(block + SIZE_OFFSET, 12, &size) < 0 || size < 0)
        return error_set(error, ERROR_INVALID, "its size is out of range");
    *ret = (uint64_t)size;
    return 0;
}

static int read_fields(const uint8_t *block, struct tar_header *header, struct error **error)
{
    int64_t mode;
    if (parse_number(block + MODE_OFFSET, 8, &mode) < 0)
        return error_set(error, ERROR_INVALID, "its mode is malformed");
    header->mode = (uint32_t)mode & 07777; /* old writers add the file type */
    if (read_u32(block + UID_OFFSET, "user id", &header->uid, error) < 0) return -1;
    if (read_u32(block + GID_OFFSET, "group id", &header->gid, error) < 0) return -1;
    if (read_size(block, &header->size, error) < 0) return -1;
    if (parse_number(block + MTIME_OFFSET, 12, &header->mtime) < 0)
        return error_set(error, ERROR_INVALID, "its time is malformed");
    if ((header->type == '3' || header->type == '4') &&
        memcmp(block + MAGIC_OFFSET, "ustar", 5) == 0) {
        if (read_u32(block + MAJOR_OFFSET, "device number", &header->device_major, error) < 0)
            return -1;
        if (read_u32(block + MINOR_OFFSET, "device number", &header->device_minor, error) < 0)
            return -1;
    }
    return 0;
}

/*
 * "/./a//b/" becomes "a/b". An unpacker would climb with "..", or be stopped:
 * no image needs it.
 */
static int clean_path(const char *raw, char clean[PATH_BYTES_MAX + 1], size_t *ret_length,
                      struct error **error)
{
    size_t length = 0;
    while (*raw) {
        size_t component = strcspn(raw, "/");
        bool dot = component == 1 && raw[0] == '.';
        if (component == 2 && raw[0] == '.' && raw[1] == '.')
            return error_set(error, ERROR_INVALID, "a path has a \"..\" component");
        if (component > 255)
            return error_set(error, ERROR_INVALID, "a name is longer than 255 bytes");
        if (component > 0 && !dot) {
            if (length + 1 + component > PATH_BYTES_MAX)
                return error_set(error, ERROR_INVALID, "a path is longer than 4095 bytes");
            if (length) clean[length++] = '/';
            memcpy(clean + length, raw, component);
            length += component;
        }
        raw += component;
        while (*raw == '/')
            raw++;
    }
    clean[length] = 0;
    *ret_length = length;
    return 0;
}

static int entry_type_of(char type, enum entry_type *ret, struct error **error)
{
    switch (type) {
    case '0':
    case 0:
    case '7':
        *ret = ENTRY_REGULAR;
        return 0;
    case '1':
        *ret = ENTRY_HARDLINK;
        return 0;
    case '2':
        *ret = ENTRY_SYMLINK;
        return 0;
    case '3':
        *ret = ENTRY_CHARACTER_DEVICE;
        return 0;
    case '4':
        *ret = ENTRY_BLOCK_DEVICE;
        return 0;
    case '5':
        *ret = ENTRY_DIRECTORY;
        return 0;
    case '6':
        *ret = ENTRY_FIFO;
        return 0;
    case 'S':
        return error_set(error, ERROR_UNSUPPORTED, "sparse files are not supported");
    default:
        return error_set(error, ERROR_UNSUPPORTED, "tar entries of type '%c' are not supported",
                         type);
    }
}

/* Only these are followed by their size in data; other types may carry a size all the same. */
static bool type_has_data(char type)
{
    return !(type >= '1' && type <= '6');
}

enum meaning { MEANS_ENTRY, MEANS_NOTHING, MEANS_WHITEOUT };

/* OCI image specification, "Layer", "Whiteouts". Turns `path` into what is hidden. */
static int read_whiteout(char *path, size_t length, enum meaning *ret, struct entry *entry,
                         struct error **error)
{
    char *base = memrchr(path, '/', length);
    *ret = MEANS_ENTRY;
    /* AUFS kept its own records in the root under such names; unpackers pass them over. */
    if (strncmp(path, ".wh..wh.", 8) == 0 && strcmp(path, ".wh..wh..opq") != 0) {
        *ret = MEANS_NOTHING;
        return 0;
    }
    char *name = base ? base + 1 : path;
    if (strncmp(name, ".wh.", 4) != 0) return 0;
    if (strncmp(name, ".wh..wh.", 8) == 0) {
        *ret = strcmp(name, ".wh..wh..opq") == 0 ? MEANS_WHITEOUT : MEANS_NOTHING;
        entry->type = ENTRY_OPAQUE;
        *(base ? base : path) = 0;
        return 0;
    }
    char *hidden = name + 4;
    if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
        return error_set(error, ERROR_INVALID, "the whiteout names nothing");
    *ret = MEANS_WHITEOUT;
    entry->type = ENTRY_WHITEOUT;
    memmove(name, hidden, strlen(hidden) + 1);
    return 0;
}

static void fill_entry(const struct tar_header *header, uint64_t data_offset, struct entry *entry)
{
    entry->mode = header->mode;
    entry->uid = header->uid;
    entry->gid = header->gid;
    entry->mtime = header->mtime;
    entry->mtime_nsec = header->mtime_nsec;
    entry->size = header->size;
    entry->data_offset = data_offset;
    entry->device_major = header->device_major;
    entry->device_minor = header->device_minor;
    entry->xattrs = header->xattrs;
    entry->xattr_count = (uint32_t)header->xattr_count;
}

static int take_entry(struct tar_reader *reader, const struct tar_header *header,
                      struct error **error)
{
    char path[PATH_BYTES_MAX + 1], target[PATH_BYTES_MAX + 1];
    size_t length, target_length;
    struct entry entry = { .path = path };
    enum meaning meaning;

    if (header->sparse)
        return error_set(error, ERROR_UNSUPPORTED, "sparse files are not supported");
    if (entry_type_of(header->type, &entry.type, error) < 0) return -1;
    if (clean_path(header->name, path, &length, error) < 0) return -1;
    size_t raw_length = strlen(header->name);
    if ((header->type == '0' || header->type == 0) && raw_length > 0 &&
        header->name[raw_length - 1] == '/')
        entry.type = ENTRY_DIRECTORY; /* before ustar, directories were told so */

    if (read_whiteout(path, length, &meaning, &entry, error) < 0) return -1;
    if (meaning == MEANS_NOTHING) return 0;
    if (meaning == MEANS_ENTRY) {
        if (length == 0 && entry.type != ENTRY_DIRECTORY)
            return error_set(error, ERROR_INVALID, "it would replace the root directory");
        fill_entry(header, reader->position, &entry);
        entry.target = header->link;
        if (entry.type == ENTRY_HARDLINK) {
            if (clean_path(header->link, target, &target_length, error) < 0) return -1;
            if (strcmp(path, target) == 0) return 0;
            if (target_length == 0)
                return error_set(error, ERROR_INVALID, "the hard link has no target");
            entry.target = target;
        }
    }
    return entry_table_append(reader->table, &entry, error);
}

static void forget_extensions(struct tar_reader *reader)
{
    pax_records_clear(&reader->local);
    reader->long_name.length = 0;
    reader->long_link.length = 0;
}

static void pass_over(struct tar_reader *reader, uint64_t size)
{
    if (size == 0) return;
    reader->padding = round_up(size) - size;
    reader->skip = round_up(size);
    reader->state = IN_DATA;
}

static int read_entry(struct tar_reader *reader, struct tar_header *header, struct error **error)
{
    header->xattrs = reader->xattrs;
    if (read_fields(reader->block, header, error) < 0) return -1;
    if (pax_records_apply(&reader->global, &reader->local, header, error) < 0) return -1;
    if (reader->long_name.length) header->name = (const char *)reader->long_name.data;
    if (reader->long_link.length) header->link = (const char *)reader->long_link.data;
    if (take_entry(reader, header, error) < 0) return -1;
    forget_extensions(reader);
    if (type_has_data(header->type)) pass_over(reader, header->size);
    return 0;
}

/* Starts taking in the data of an 'x', 'g', 'L' or 'K' header. */
static int read_meta_header(struct tar_reader *reader, struct error **error)
{
    uint64_t size = 0;
    if (read_size(reader->block, &size, error) < 0) return -1;
    if (size > TAR_META_BYTES_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "an extended header is longer than 1 MiB");
    reader->meta_type = (char)reader->block[TYPE_OFFSET];
    reader->meta_length = (size_t)size;
    reader->meta.length = 0;
    reader->skip = round_up(size);
    reader->state = IN_META;
    return 0;
}

static int take_long_name(struct buffer *to, const struct buffer *meta, size_t length,
                          struct error **error)
{
    to->length = 0;
    length = strnlen((const char *)meta->data, length);
    if (buffer_append(to, meta->data, length) < 0 || buffer_append_u8(to, 0) < 0)
        return error_set_memory(error);
    return 0;
}

static int take_meta(struct tar_reader *reader, struct error **error)
{
    const struct buffer *meta = &reader->meta;
    size_t length = reader->meta_length;
    reader->state = AT_HEADER;
    if (length == 0 && (reader->meta_type == 'L' || reader->meta_type == 'K')) return 0;
    switch (reader->meta_type) {
    case 'L':
        return take_long_name(&reader->long_name, meta, length, error);
    case 'K':
        return take_long_name(&reader->long_link, meta, length, error);
    case 'g':
        return pax_records_parse(&reader->global, meta->data, length, error);
    default:
        pax_records_clear(&reader->local); /* the last one holds */
        return pax_records_parse(&reader->local, meta->data, length, error);
    }
}

static int fail(struct tar_reader *reader, uint64_t offset, const char *name, struct error **error)
{
    reader->state = FAILED;
    if (name && *name)
        return error_prefix(error, "tar entry \"%.300s\" (header at byte %llu of the stream)", name,
                            (unsigned long long)offset);
    return error_prefix(error, "tar header at byte %llu of the stream", (unsigned long long)offset);
}

/* `reader->block` is full, and `position` behind it. */
static int read_header(struct tar_reader *reader, struct error **error)
{
    uint64_t offset = reader->position - BLOCK;
    const uint8_t *block = reader->block;
    if (is_zero_block(block)) {
        if (reader->saw_zero_block) reader->state = AT_END;
        reader->saw_zero_block = true;
        return 0;
    }
    if (reader->saw_zero_block) {
        error_set(error, ERROR_INVALID, "a header follows a block of zeros");
        return fail(reader, offset, NULL, error);
    }
    if (check_checksum(block) < 0) {
        error_set(error, ERROR_INVALID, "wrong checksum; this is not a tar header");
        return fail(reader, offset, NULL, error);
    }

    char name[300], link[NAME_LENGTH + 1];
    read_name(block, name);
    copy_field(link, block + LINK_OFFSET, NAME_LENGTH);
    struct tar_header header = { .type = (char)block[TYPE_OFFSET], .name = name, .link = link };
    int status;
    if (header.type == 'x' || header.type == 'g' || header.type == 'L' || header.type == 'K')
        status = read_meta_header(reader, error);
    else
        status = read_entry(reader, &header, error);
    return status < 0 ? fail(reader, offset, header.name, error) : 0;
}

static int feed_header(struct tar_reader *reader, const uint8_t *data, size_t length,
                       size_t *ret_taken, struct error **error)
{
    size_t taken = BLOCK - reader->block_filled;
    if (taken > length) taken = length;
    memcpy(reader->block + reader->block_filled, data, taken);
    reader->block_filled += taken;
    reader->position += taken;
    *ret_taken = taken;
    if (reader->block_filled < BLOCK) return 0;
    reader->block_filled = 0;
    return read_header(reader, error);
}

static int feed_meta(struct tar_reader *reader, const uint8_t *data, size_t length,
                     size_t *ret_taken, struct error **error)
{
    size_t taken = length < reader->skip ? length : (size_t)reader->skip;
    *ret_taken = taken;
    reader->skip -= taken;
    reader->position += taken;
    if (buffer_append(&reader->meta, data, taken) < 0) return error_set_memory(error);
    if (reader->skip > 0) return 0;
    if (take_meta(reader, error) < 0)
        return fail(reader, reader->position - round_up(reader->meta_length) - BLOCK, NULL, error);
    return 0;
}

int tar_reader_feed(struct tar_reader *reader, const void *data, size_t length,
                    struct error **error)
{
    const uint8_t *next = data;
    int status = 0;
    /* A header without data is complete at once, also when nothing follows yet. */
    while (status == 0 && (length > 0 || (reader->state == IN_META && reader->skip == 0))) {
        size_t taken = 0;
        switch (reader->state) {
        case AT_HEADER:
            status = feed_header(reader, next, length, &taken, error);
            break;
        case IN_META:
            status = feed_meta(reader, next, length, &taken, error);
            break;
        case IN_DATA:
            taken = length < reader->skip ? length : (size_t)reader->skip;
            reader->skip -= taken;
            reader->position += taken;
            if (reader->skip == 0) reader->state = AT_HEADER;
            break;
        case AT_END:
            taken = length;
            reader->position += taken;
            break;
        case FAILED:
            return error_set(error, ERROR_INVALID, "tar: reading goes on after an error");
        }
        next += taken;
        length -= taken;
    }
    return status;
}

int tar_reader_finish(struct tar_reader *reader, struct error **error)
{
    bool inside = false;
    switch (reader->state) {
    case AT_HEADER:
        inside = reader->block_filled > 0 || reader->local.count > 0 ||
                 reader->long_name.length > 0 || reader->long_link.length > 0;
        break;
    case IN_META:
        inside = true;
        break;
    case IN_DATA:
        inside = reader->skip > reader->padding;
        break;
    case AT_END:
        break;
    case FAILED:
        return error_set(error, ERROR_INVALID, "tar: the stream ended after an error");
    }
    if (!inside) return 0;
    reader->state = FAILED;
    return error_set(error, ERROR_INVALID, "tar: the stream ends inside an entry, at byte %llu",
                     (unsigned long long)reader->position);
}
