/* The format is told in docs/formats.md, "Entry table". */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "index/entry-table-internal.h"
#include "index/entry_table.h"

#define MAGIC       "SLUICEET"
#define MAGIC_BYTES 8
#define VERSION     1
#define PATH_ROOM   4096

/* A regular file with segments; the other types are numbered as in enum entry_type. */
#define SPARSE_FILE 10

/* What the next record is told as a difference to. */
struct codec_state {
    char path[PATH_ROOM];
    size_t path_length;
    int64_t mtime;
    uint64_t next_block; /* where the data of the next file lies when one header stands between */
};

/* Small for small differences of either sign: 0, -1, 1, -2, ... */
static uint64_t zigzag(uint64_t difference)
{
    return (difference << 1) ^ (difference >> 63 ? UINT64_MAX : 0);
}

static uint64_t unzigzag(uint64_t value)
{
    return (value >> 1) ^ (value & 1 ? UINT64_MAX : 0);
}

static uint64_t blocks_of(uint64_t bytes)
{
    return bytes / 512 + (bytes % 512 != 0);
}

static size_t common_prefix(const struct codec_state *state, const char *path, size_t length)
{
    size_t shared = 0;
    while (shared < length && shared < state->path_length && path[shared] == state->path[shared])
        shared++;
    return shared;
}

static void remember(struct codec_state *state, const struct entry *entry)
{
    if (!entry_type_has_attributes(entry->type)) return;
    state->mtime = entry->mtime;
    uint64_t length = entry_data_length(entry);
    if (length > 0) state->next_block = entry->data_offset / 512 + blocks_of(length) + 1;
}

static int encode_text(struct buffer *out, const void *text, size_t length)
{
    if (buffer_append_varint(out, length) < 0) return -1;
    return buffer_append(out, text, length);
}

static int encode_path(struct buffer *out, struct codec_state *state, const char *path)
{
    size_t length = strlen(path);
    size_t shared = common_prefix(state, path, length);
    if (buffer_append_varint(out, shared) < 0) return -1;
    if (encode_text(out, path + shared, length - shared) < 0) return -1;
    memcpy(state->path, path, length);
    state->path_length = length;
    return 0;
}

/* Holes and data in turn. */
static int encode_segments(struct buffer *out, const struct entry *entry)
{
    uint64_t end = 0;
    int status = buffer_append_varint(out, entry->segment_count);
    for (uint32_t i = 0; i < entry->segment_count && status == 0; i++) {
        const struct entry_segment *segment = &entry->segments[i];
        status |= buffer_append_varint(out, segment->offset - end);
        status |= buffer_append_varint(out, segment->length);
        end = segment->offset + segment->length;
    }
    return status;
}

static int encode_content(struct buffer *out, const struct codec_state *state,
                          const struct entry *entry)
{
    int status = buffer_append_varint(out, entry->size);
    if (entry->sparse) status |= encode_segments(out, entry);
    if (entry_data_length(entry) > 0)
        status |= buffer_append_varint(out, zigzag(entry->data_offset / 512 - state->next_block));
    return status;
}

static int encode_attributes(struct buffer *out, const struct codec_state *state,
                             const struct entry *entry)
{
    int status = 0;
    if (entry->type != ENTRY_SYMLINK) status |= buffer_append_varint(out, entry->mode);
    status |= buffer_append_varint(out, entry->uid);
    status |= buffer_append_varint(out, entry->gid);
    status |= buffer_append_varint(out, zigzag((uint64_t)entry->mtime - (uint64_t)state->mtime));
    status |= buffer_append_varint(out, entry->mtime_nsec);
    if (entry->type == ENTRY_REGULAR) status |= encode_content(out, state, entry);
    if (entry_type_is_device(entry->type)) {
        status |= buffer_append_varint(out, entry->device_major);
        status |= buffer_append_varint(out, entry->device_minor);
    }
    status |= buffer_append_varint(out, entry->xattr_count);
    for (uint32_t i = 0; i < entry->xattr_count; i++) {
        const struct entry_xattr *xattr = &entry->xattrs[i];
        status |= encode_text(out, xattr->name, strlen(xattr->name));
        status |= encode_text(out, xattr->value, xattr->value_length);
    }
    return status;
}

static int encode_entry(struct buffer *out, struct codec_state *state, const struct entry *entry)
{
    uint8_t type = entry->sparse ? SPARSE_FILE : (uint8_t)entry->type;
    if (buffer_append_u8(out, type) < 0) return -1;
    if (encode_path(out, state, entry->path) < 0) return -1;
    if (entry->target && encode_text(out, entry->target, strlen(entry->target)) < 0) return -1;
    if (entry_type_has_attributes(entry->type) && encode_attributes(out, state, entry) < 0)
        return -1;
    remember(state, entry);
    return 0;
}

int entry_table_encode(const struct entry_table *table, struct buffer *ret, struct error **error)
{
    struct codec_state state = { 0 };
    size_t count = entry_table_count(table);
    int status = buffer_append(ret, MAGIC, MAGIC_BYTES);
    status |= buffer_append_le32(ret, VERSION);
    status |= buffer_append_varint(ret, count);
    for (size_t i = 0; i < count && status == 0; i++)
        status = encode_entry(ret, &state, entry_table_get(table, i));
    return status == 0 ? 0 : error_set_memory(error);
}

struct decoder {
    struct cursor cursor;
    struct codec_state state;
    uint64_t stream_length;
    char target[PATH_ROOM];
    struct entry_xattr *xattrs;
    size_t xattr_capacity;
    struct buffer names; /* attribute names of the current record, each with its NUL */
    struct entry_segment *segments;
    size_t segment_capacity;
};

static void decoder_free(struct decoder *decoder)
{
    free(decoder->xattrs);
    free(decoder->segments);
    buffer_free(&decoder->names);
}

static uint32_t decode_u32(struct cursor *cursor)
{
    uint64_t value = cursor_varint(cursor);
    if (value > UINT32_MAX) cursor->failed = 1;
    return (uint32_t)value;
}

/* Bytes that will be used as a C string. */
static const uint8_t *decode_text(struct cursor *cursor, size_t limit, size_t *ret_length)
{
    uint64_t length = cursor_varint(cursor);
    *ret_length = 0;
    if (length > limit) cursor->failed = 1;
    const uint8_t *text = cursor_bytes(cursor, cursor->failed ? 0 : (size_t)length);
    if (cursor->failed) return NULL;
    if (memchr(text, 0, length)) {
        cursor->failed = 1;
        return NULL;
    }
    *ret_length = (size_t)length;
    return text;
}

static void decode_path(struct decoder *decoder, struct entry *entry)
{
    struct codec_state *state = &decoder->state;
    struct cursor *cursor = &decoder->cursor;
    uint64_t shared = cursor_varint(cursor);
    if (shared > state->path_length) cursor->failed = 1;
    if (cursor->failed) return;
    size_t length;
    const uint8_t *rest = decode_text(cursor, PATH_ROOM - 1 - shared, &length);
    if (!rest) return;
    /* The encoder shares all it can. */
    if (length > 0 && shared < state->path_length && rest[0] == (uint8_t)state->path[shared])
        cursor->failed = 1;
    memcpy(state->path + shared, rest, length);
    state->path_length = shared + length;
    state->path[state->path_length] = 0;
    entry->path = state->path;
}

static void decode_target(struct decoder *decoder, struct entry *entry)
{
    size_t length;
    const uint8_t *text = decode_text(&decoder->cursor, PATH_ROOM - 1, &length);
    if (!text) return;
    memcpy(decoder->target, text, length);
    decoder->target[length] = 0;
    entry->target = decoder->target;
}

static int decode_xattrs(struct decoder *decoder, struct entry *entry)
{
    struct cursor *cursor = &decoder->cursor;
    uint64_t count = cursor_varint(cursor);
    /* Each takes a length, a name of one byte at least, and a length. */
    if (count > cursor_left(cursor) / 3) cursor->failed = 1;
    if (cursor->failed || count == 0) return 0;
    if (count > decoder->xattr_capacity) {
        struct entry_xattr *xattrs = reallocarray(decoder->xattrs, count, sizeof *xattrs);
        if (!xattrs) return -1;
        decoder->xattrs = xattrs;
        decoder->xattr_capacity = count;
    }
    decoder->names.length = 0;
    for (uint64_t i = 0; i < count && !cursor->failed; i++) {
        struct entry_xattr *xattr = &decoder->xattrs[i];
        size_t length;
        const uint8_t *name = decode_text(cursor, 255, &length);
        if (!name) break;
        if (buffer_append(&decoder->names, name, length) < 0 ||
            buffer_append_u8(&decoder->names, 0) < 0)
            return -1;
        xattr->value_length = decode_u32(cursor);
        xattr->value = cursor_bytes(cursor, xattr->value_length);
    }
    if (cursor->failed) return 0;
    const char *name = (const char *)decoder->names.data; /* settled only now */
    for (uint64_t i = 0; i < count; i++, name += strlen(name) + 1)
        decoder->xattrs[i].name = name;
    entry->xattrs = decoder->xattrs;
    entry->xattr_count = (uint32_t)count;
    return 0;
}

/* Order and bounds are for entry_table_append(); here, that the sums do not wrap around. */
static int decode_segments(struct decoder *decoder, struct entry *entry)
{
    struct cursor *cursor = &decoder->cursor;
    uint64_t count = cursor_varint(cursor), end = 0;
    if (count > cursor_left(cursor) / 2 || count > ENTRY_SEGMENTS_MAX) cursor->failed = 1;
    if (cursor->failed) return 0;
    if (count > decoder->segment_capacity) {
        struct entry_segment *segments = reallocarray(decoder->segments, count, sizeof *segments);
        if (!segments) return -1;
        decoder->segments = segments;
        decoder->segment_capacity = count;
    }
    for (uint64_t i = 0; i < count && !cursor->failed; i++) {
        struct entry_segment *segment = &decoder->segments[i];
        if (__builtin_add_overflow(end, cursor_varint(cursor), &segment->offset)) break;
        segment->length = cursor_varint(cursor);
        if (__builtin_add_overflow(segment->offset, segment->length, &end)) break;
        entry->segment_count++;
    }
    if (entry->segment_count < count) cursor->failed = 1;
    entry->segments = decoder->segments;
    return 0;
}

static int decode_content(struct decoder *decoder, struct entry *entry)
{
    struct cursor *cursor = &decoder->cursor;
    entry->size = cursor_varint(cursor);
    if (entry->sparse && decode_segments(decoder, entry) < 0) return -1;
    uint64_t length = cursor->failed ? 0 : entry_data_length(entry);
    if (length == 0) return 0;
    uint64_t block = decoder->state.next_block + unzigzag(cursor_varint(cursor));
    if (block > decoder->stream_length / 512 || length > decoder->stream_length - block * 512)
        cursor->failed = 1;
    else
        entry->data_offset = block * 512;
    return 0;
}

static int decode_attributes(struct decoder *decoder, struct entry *entry)
{
    struct cursor *cursor = &decoder->cursor;
    if (entry->type != ENTRY_SYMLINK) entry->mode = decode_u32(cursor);
    entry->uid = decode_u32(cursor);
    entry->gid = decode_u32(cursor);
    entry->mtime = (int64_t)((uint64_t)decoder->state.mtime + unzigzag(cursor_varint(cursor)));
    entry->mtime_nsec = decode_u32(cursor);
    if (entry->type == ENTRY_REGULAR && decode_content(decoder, entry) < 0) return -1;
    if (entry_type_is_device(entry->type)) {
        entry->device_major = decode_u32(cursor);
        entry->device_minor = decode_u32(cursor);
    }
    return decode_xattrs(decoder, entry);
}

static int decode_entry(struct decoder *decoder, struct entry_table *table, struct error **error)
{
    struct cursor *cursor = &decoder->cursor;
    size_t start = cursor->position;
    uint8_t type = cursor_u8(cursor);
    struct entry entry = { .type = (enum entry_type)type };
    if (type == SPARSE_FILE) {
        entry.type = ENTRY_REGULAR;
        entry.sparse = true;
    }
    decode_path(decoder, &entry);
    if (!cursor->failed && entry_type_has_target(entry.type)) decode_target(decoder, &entry);
    if (!cursor->failed && entry_type_has_attributes(entry.type) &&
        decode_attributes(decoder, &entry) < 0)
        return error_set_memory(error);
    if (cursor->failed)
        return error_set(error, ERROR_INVALID, "entry table: damaged record at byte %zu", start);
    if (entry_table_append(table, &entry, error) < 0) return error_prefix(error, "entry table");
    remember(&decoder->state, &entry);
    return 0;
}

static int decode_header(struct cursor *cursor, uint64_t *ret_count, struct error **error)
{
    const uint8_t *magic = cursor_bytes(cursor, MAGIC_BYTES);
    if (!magic || memcmp(magic, MAGIC, MAGIC_BYTES) != 0)
        return error_set(error, ERROR_INVALID, "entry table: not an entry table");
    uint32_t version = cursor_le32(cursor);
    *ret_count = cursor_varint(cursor);
    if (cursor->failed) return error_set(error, ERROR_INVALID, "entry table: cut short");
    if (version != VERSION)
        return error_set(
            error, ERROR_UNSUPPORTED,
            "entry table: version %u, this sluice reads version %d; use a newer sluice", version,
            VERSION);
    return 0;
}

int entry_table_read_count(const void *data, size_t length, uint64_t *ret, struct error **error)
{
    struct cursor cursor = cursor_of(data, length);
    return decode_header(&cursor, ret, error);
}

int entry_table_decode(struct entry_table **ret, const void *data, size_t length,
                       uint64_t stream_length, struct error **error)
{
    struct decoder decoder = { .cursor = cursor_of(data, length), .stream_length = stream_length };
    uint64_t count = 0;
    if (decode_header(&decoder.cursor, &count, error) < 0) return -1;
    struct entry_table *table = entry_table_new();
    if (!table) return error_set_memory(error);
    int status = 0;
    for (uint64_t i = 0; i < count && status == 0; i++)
        status = decode_entry(&decoder, table, error);
    if (status == 0 && cursor_left(&decoder.cursor) > 0)
        status = error_set(error, ERROR_INVALID, "entry table: %zu bytes behind the last record",
                           cursor_left(&decoder.cursor));
    decoder_free(&decoder);
    if (status < 0) {
        entry_table_free(table);
        return -1;
    }
    *ret = table;
    return 0;
}
