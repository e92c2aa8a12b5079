#include "index/chunk_table.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/cleanup.h"

/*
 * docs/formats.md, "Chunk table". The digests stand behind the other fields, so
 * that the compressible part is one run for zstd.
 */
static const uint8_t MAGIC[8] = { 'S', 'L', 'U', 'I', 'C', 'E', 'C', 'T' };
#define VERSION           1
#define CHUNK_BYTES_LEAST (3 + DIGEST_BYTES) /* two varints, a byte, a digest */
#define GROUP_BYTES_LEAST (1 + DIGEST_BYTES)
/* EROFS counts a device's 512-byte blocks in 32 bits. */
#define STREAM_LENGTH_MAX ((uint64_t)UINT32_MAX * 512)
#define BLOB_LENGTH_MAX   (1ull << 48)
/* A group of windows is at most 256 KiB decoded; zstd's bound for that is a little more. */
#define GROUP_LENGTH_MAX ((uint32_t)ZSTD_COMPRESSBOUND(WINDOWS_PER_GROUP * GZIP_WINDOW_LENGTH))
/* So much is decoded for a chunk without anybody minding. */
#define ROW_LENGTH_MAX ((uint64_t)64 << 20)

const char *layer_kind_name(enum layer_kind kind)
{
    switch (kind) {
    case LAYER_TAR:
        return "tar";
    case LAYER_GZIP:
        return "gzip";
    case LAYER_ZSTD:
        return "zstd";
    }
    return "unknown";
}

struct chunk_table *chunk_table_share(struct chunk_table *table)
{
    atomic_fetch_add(&table->shares, 1);
    return table;
}

void chunk_table_free(struct chunk_table *table)
{
    if (!table || atomic_fetch_sub(&table->shares, 1) > 0) return;
    free(table->chunks);
    free(table->groups);
    free(table);
}

int chunk_table_encode(const struct chunk_table *table, struct buffer *ret, struct error **error)
{
    int failed = buffer_append(ret, MAGIC, sizeof MAGIC);
    failed |= buffer_append_le32(ret, VERSION);
    failed |= buffer_append_le32(ret, table->kind);
    failed |= buffer_append_le32(ret, table->decoder_window);
    failed |= buffer_append_le64(ret, table->blob_length);
    failed |= buffer_append_le64(ret, table->stream_length);
    failed |= buffer_append(ret, table->blob_digest.bytes, DIGEST_BYTES);
    failed |= buffer_append(ret, table->stream_digest.bytes, DIGEST_BYTES);
    failed |= buffer_append_le32(ret, table->chunk_count);
    failed |= buffer_append_le32(ret, table->group_count);
    uint64_t blob_offset = 0;
    for (uint32_t i = 0; i < table->chunk_count; i++) {
        const struct chunk *chunk = &table->chunks[i];
        failed |= buffer_append_varint(ret, chunk_length(table, i));
        failed |= buffer_append_varint(ret, chunk->blob_offset - blob_offset);
        failed |= buffer_append_u8(ret, (uint8_t)(chunk->start | chunk->bits << 2));
        blob_offset = chunk->blob_offset;
    }
    for (uint32_t i = 0; i < table->group_count; i++)
        failed |= buffer_append_varint(ret, table->groups[i].length);
    for (uint32_t i = 0; i < table->chunk_count; i++)
        failed |= buffer_append(ret, table->chunks[i].digest.bytes, DIGEST_BYTES);
    for (uint32_t i = 0; i < table->group_count; i++)
        failed |= buffer_append(ret, table->groups[i].digest.bytes, DIGEST_BYTES);
    return failed ? error_set_memory(error) : 0;
}

static void take_digest(struct cursor *cursor, struct digest *ret)
{
    const uint8_t *bytes = cursor_bytes(cursor, DIGEST_BYTES);
    if (bytes) memcpy(ret->bytes, bytes, DIGEST_BYTES);
}

static bool window_is_possible(const struct chunk_table *table)
{
    uint32_t window = table->decoder_window;
    if (table->kind != LAYER_ZSTD) return window == 0;
    if (window == 0) return table->chunk_count == 0;
    return window >= CHUNK_DECODER_WINDOW_LEAST && window <= CHUNK_DECODER_WINDOW_MAX &&
           (window & (window - 1)) == 0;
}

static const char *decode_header(struct cursor *cursor, struct chunk_table *table)
{
    const uint8_t *magic = cursor_bytes(cursor, sizeof MAGIC);
    if (!magic || memcmp(magic, MAGIC, sizeof MAGIC) != 0) return "is not a chunk table";
    if (cursor_le32(cursor) != VERSION)
        return "has a version that this sluice does not know; use the sluice that wrote it";
    uint32_t kind = cursor_le32(cursor);
    if (kind < LAYER_TAR || kind > LAYER_ZSTD) return "names an unknown kind of layer";
    table->kind = (enum layer_kind)kind;
    table->decoder_window = cursor_le32(cursor);
    table->blob_length = cursor_le64(cursor);
    table->stream_length = cursor_le64(cursor);
    take_digest(cursor, &table->blob_digest);
    take_digest(cursor, &table->stream_digest);
    table->chunk_count = cursor_le32(cursor);
    table->group_count = cursor_le32(cursor);
    if (cursor->failed) return "is cut short";
    if (table->blob_length > BLOB_LENGTH_MAX || table->stream_length > STREAM_LENGTH_MAX)
        return "names a length out of range";
    if (!window_is_possible(table)) return "names a decoder's window that cannot be";
    if ((table->chunk_count == 0) != (table->stream_length == 0)) return "has no chunks";
    if (table->chunk_count > cursor_left(cursor) / CHUNK_BYTES_LEAST ||
        table->group_count > cursor_left(cursor) / GROUP_BYTES_LEAST)
        return "is cut short";
    return NULL;
}

/* Checks chunk `i`, of which everything but the digest was read, against the rules of its kind. */
static const char *check_chunk(struct chunk_table *table, uint32_t i, uint64_t advance)
{
    struct chunk *chunk = &table->chunks[i];
    if (i == 0 && (chunk->start != CHUNK_FRAME || chunk->blob_offset != 0))
        return "does not start at the start of the blob";
    if (chunk->blob_offset >= table->blob_length) return "has a chunk outside the blob";
    switch (chunk->start) {
    case CHUNK_FRAME:
        if (chunk->bits) return "has a frame that starts within a byte";
        break;
    case CHUNK_WINDOW:
        if (table->kind != LAYER_GZIP) return "has a window in a layer that is not gzip";
        chunk->window = table->window_count++;
        break;
    case CHUNK_CONTINUES:
        if (chunk->bits || advance) return "has a chunk that does not continue the one before";
        break;
    default:
        return "has a chunk of unknown start";
    }
    if (i > 0 && chunk->start != CHUNK_CONTINUES && advance == 0)
        return "has two chunks at one place";
    if (table->kind == LAYER_TAR &&
        (chunk->start != CHUNK_FRAME || chunk->blob_offset != chunk->stream_offset))
        return "has a chunk that is not where it is in the stream";
    return NULL;
}

static const char *decode_chunks(struct cursor *cursor, struct chunk_table *table)
{
    uint64_t stream_offset = 0, blob_offset = 0;
    for (uint32_t i = 0; i < table->chunk_count; i++) {
        struct chunk *chunk = &table->chunks[i];
        uint64_t length = cursor_varint(cursor);
        uint64_t advance = cursor_varint(cursor);
        uint8_t packed = cursor_u8(cursor);
        if (cursor->failed) return "is cut short";
        if (length == 0 || length > CHUNK_LENGTH_MAX ||
            length > table->stream_length - stream_offset)
            return "has a chunk of impossible length";
        if (advance > table->blob_length) return "has a chunk outside the blob";
        blob_offset += advance;
        chunk->stream_offset = stream_offset;
        chunk->blob_offset = blob_offset;
        chunk->start = packed & 3;
        chunk->bits = packed >> 2;
        if (chunk->bits > 7) return "has a chunk of unknown start";
        const char *wrong = check_chunk(table, i, advance);
        if (wrong) return wrong;
        stream_offset += length;
    }
    if (stream_offset != table->stream_length) return "does not cover the stream";
    if (table->kind == LAYER_TAR && table->blob_length != table->stream_length)
        return "does not cover the stream";
    return NULL;
}

static const char *decode_groups(struct cursor *cursor, struct chunk_table *table)
{
    if (table->group_count != (table->window_count + WINDOWS_PER_GROUP - 1) / WINDOWS_PER_GROUP)
        return "has another number of window groups than its chunks need";
    for (uint32_t i = 0; i < table->group_count; i++) {
        uint64_t length = cursor_varint(cursor);
        if (length == 0 || length > GROUP_LENGTH_MAX)
            return "has a group of windows of impossible length";
        table->groups[i].offset = table->windows_length;
        table->groups[i].length = (uint32_t)length;
        table->windows_length += length;
    }
    return NULL;
}

static const char *decode(struct cursor *cursor, struct chunk_table *table)
{
    const char *wrong = decode_header(cursor, table);
    if (wrong) return wrong;
    table->chunks = calloc(table->chunk_count + 1u, sizeof *table->chunks);
    table->groups = calloc(table->group_count + 1u, sizeof *table->groups);
    if (!table->chunks || !table->groups) return "is too large for this machine's memory";
    wrong = decode_chunks(cursor, table);
    if (!wrong) wrong = decode_groups(cursor, table);
    if (wrong) return wrong;
    for (uint32_t i = 0; i < table->chunk_count; i++)
        take_digest(cursor, &table->chunks[i].digest);
    for (uint32_t i = 0; i < table->group_count; i++)
        take_digest(cursor, &table->groups[i].digest);
    if (cursor->failed) return "is cut short";
    if (cursor_left(cursor)) return "has bytes behind its end";
    return NULL;
}

int chunk_table_decode(struct chunk_table **ret, const void *data, size_t length,
                       struct error **error)
{
    struct cursor cursor = cursor_of(data, length);
    struct chunk_table *table = calloc(1, sizeof *table);
    if (!table) return error_set_memory(error);
    const char *wrong = decode(&cursor, table);
    if (wrong) {
        chunk_table_free(table);
        return error_set(error, ERROR_INVALID, "chunk table %s", wrong);
    }
    *ret = table;
    return 0;
}

uint32_t chunk_table_find(const struct chunk_table *table, uint64_t stream_offset)
{
    uint32_t low = 0, high = table->chunk_count; /* low's offset <= stream_offset < high's */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (table->chunks[middle].stream_offset <= stream_offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint64_t chunk_length(const struct chunk_table *table, uint32_t chunk)
{
    uint64_t end = chunk + 1 < table->chunk_count ? table->chunks[chunk + 1].stream_offset
                                                  : table->stream_length;
    return end - table->chunks[chunk].stream_offset;
}

size_t chunk_target_length(uint64_t blob_length)
{
    if (blob_length < 2ull << 30) return CHUNK_TARGET_LEAST;
    return blob_length < 4ull << 30 ? 2 * CHUNK_TARGET_LEAST : CHUNK_TARGET_MOST;
}

uint32_t chunk_table_checkpoint(const struct chunk_table *table, uint32_t chunk)
{
    while (table->chunks[chunk].start == CHUNK_CONTINUES)
        chunk--;
    return chunk;
}

bool chunk_table_is_read_forward(const struct chunk_table *table)
{
    uint64_t row = 0;
    for (uint32_t i = 0; i < table->chunk_count && table->kind == LAYER_ZSTD; i++) {
        row = table->chunks[i].start == CHUNK_CONTINUES ? row + chunk_length(table, i) : 0;
        if (row > ROW_LENGTH_MAX) return true;
    }
    return false;
}

void chunk_table_blob_range(const struct chunk_table *table, uint32_t first, uint32_t last,
                            uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t start = table->chunks[first].blob_offset;
    uint32_t next = last + 1;
    while (next < table->chunk_count && table->chunks[next].start == CHUNK_CONTINUES)
        next++;
    uint64_t end = table->blob_length;
    if (next < table->chunk_count)
        end = table->chunks[next].blob_offset + (table->chunks[next].bits ? 1 : 0);
    *ret_offset = start;
    *ret_length = end - start;
}

int window_group_extract(const struct chunk_table *table, uint32_t window, const void *group_data,
                         size_t group_length, uint8_t ret[GZIP_WINDOW_LENGTH], struct error **error)
{
    const struct window_group *group = &table->groups[window / WINDOWS_PER_GROUP];
    struct digest digest;
    digest_of(group_data, group_length, &digest);
    if (group_length != group->length || !digest_equal(&digest, &group->digest))
        return error_set(error, ERROR_INVALID, "group %u of gzip windows does not have its digest",
                         window / WINDOWS_PER_GROUP);
    uint32_t first = window / WINDOWS_PER_GROUP * WINDOWS_PER_GROUP;
    uint32_t count = table->window_count - first;
    if (count > WINDOWS_PER_GROUP) count = WINDOWS_PER_GROUP;
    size_t size = (size_t)count * GZIP_WINDOW_LENGTH;
    cleanup_free uint8_t *windows = malloc(size);
    if (!windows) return error_set_memory(error);
    if (ZSTD_decompress(windows, size, group_data, group_length) != size)
        return error_set(error, ERROR_INVALID, "group %u of gzip windows does not decode",
                         window / WINDOWS_PER_GROUP);
    memcpy(ret, windows + (size_t)(window - first) * GZIP_WINDOW_LENGTH, GZIP_WINDOW_LENGTH);
    return 0;
}
