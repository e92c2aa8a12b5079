/*
 * Maps of sparse files: GNU tar manual, "Storing Sparse Files", and gnu's
 * tar.h for the old form. In all of them the data of the segments follows
 * without gaps.
 */
#include <stdlib.h>
#include <string.h>

#include "index/tar-internal.h"

/* The old GNU header and its extension blocks. */
#define HEADER_MAP      386
#define HEADER_MAP_MAX  4
#define HEADER_MORE     482
#define HEADER_SIZE     483
#define EXTENSION_MAX   21
#define EXTENSION_MORE  504
#define MAP_ENTRY_BYTES 24

void sparse_segments_clear(struct sparse_segments *sparse)
{
    sparse->count = 0;
    sparse->named = sparse->end = sparse->data_length = 0;
}

void sparse_segments_free(struct sparse_segments *sparse)
{
    free(sparse->segments);
    *sparse = (struct sparse_segments){ 0 };
}

static bool make_room(struct sparse_segments *sparse)
{
    if (sparse->count < sparse->capacity) return true;
    size_t capacity = sparse->capacity ? sparse->capacity * 2 : 16;
    struct entry_segment *segments = reallocarray(sparse->segments, capacity, sizeof *segments);
    if (!segments) return false;
    sparse->segments = segments;
    sparse->capacity = capacity;
    return true;
}

static bool continues_last(const struct sparse_segments *sparse, uint64_t offset)
{
    if (sparse->count == 0) return false;
    const struct entry_segment *last = &sparse->segments[sparse->count - 1];
    return last->offset + last->length == offset;
}

int sparse_segments_add(struct sparse_segments *sparse, uint64_t offset, uint64_t length,
                        struct error **error)
{
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return error_set(error, ERROR_INVALID, "its sparse map has a segment out of range");
    if (offset < sparse->end)
        return error_set(error, ERROR_INVALID, "the segments of its sparse map overlap");
    if (++sparse->named > ENTRY_SEGMENTS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "its sparse map has more than %u segments",
                         ENTRY_SEGMENTS_MAX);
    sparse->end = offset + length;
    sparse->data_length += length;
    if (length == 0) return 0;
    if (continues_last(sparse, offset)) {
        sparse->segments[sparse->count - 1].length += length;
        return 0;
    }
    if (!make_room(sparse)) return error_set_memory(error);
    sparse->segments[sparse->count++] = (struct entry_segment){ offset, length };
    return 0;
}

int sparse_segments_add_list(struct sparse_segments *sparse, const char *list, struct error **error)
{
    while (*list) {
        uint64_t offset = 0, length = 0;
        bool good = tar_decimal(&list, &offset) == 0 && *list++ == ',' &&
                    tar_decimal(&list, &length) == 0 && (!*list || (*list == ',' && list[1]));
        if (!good) return error_set(error, ERROR_INVALID, "its sparse map is malformed");
        if (sparse_segments_add(sparse, offset, length, error) < 0) return -1;
        if (*list) list++;
    }
    return 0;
}

int sparse_segments_finish(const struct sparse_segments *sparse, uint64_t real_size,
                           uint64_t archived, struct entry *entry, struct error **error)
{
    if (sparse->end > real_size)
        return error_set(error, ERROR_INVALID, "its sparse map reaches behind the end of the file");
    if (sparse->data_length != archived)
        return error_set(error, ERROR_INVALID,
                         "its sparse map tells of %llu bytes of data and the archive has %llu",
                         (unsigned long long)sparse->data_length, (unsigned long long)archived);
    entry->size = real_size;
    if (sparse->data_length == real_size) return 0;
    entry->sparse = true;
    entry->segments = sparse->segments;
    entry->segment_count = (uint32_t)sparse->count;
    return 0;
}

/* Pairs of numbers; the first empty one ends them. */
static int read_pairs(struct sparse_segments *sparse, const uint8_t *pairs, size_t count,
                      struct error **error)
{
    for (size_t i = 0; i < count; i++, pairs += MAP_ENTRY_BYTES) {
        int64_t offset, length;
        if (pairs[0] == 0 && pairs[12] == 0) break;
        if (tar_number(pairs, 12, &offset) < 0 || tar_number(pairs + 12, 12, &length) < 0 ||
            offset < 0 || length < 0)
            return error_set(error, ERROR_INVALID, "its sparse map is malformed");
        if (sparse_segments_add(sparse, (uint64_t)offset, (uint64_t)length, error) < 0) return -1;
    }
    return 0;
}

int sparse_read_header(struct sparse_segments *sparse, const uint8_t *block,
                       uint64_t *ret_real_size, bool *ret_more, struct error **error)
{
    /* Others have had a type 'S' too, with other fields. */
    if (!tar_block_is_gnu(block))
        return error_set(error, ERROR_UNSUPPORTED, "it is a sparse file of no GNU header");
    if (tar_size(block + HEADER_SIZE, ret_real_size, error) < 0) return -1;
    *ret_more = block[HEADER_MORE] != 0;
    return read_pairs(sparse, block + HEADER_MAP, HEADER_MAP_MAX, error);
}

int sparse_read_extension(struct sparse_segments *sparse, const uint8_t *block, bool *ret_more,
                          struct error **error)
{
    *ret_more = block[EXTENSION_MORE] != 0;
    return read_pairs(sparse, block, EXTENSION_MAX, error);
}

/* A whole line: the number of segments, then offset and length of each. */
static int take_line(struct sparse_segments *sparse, struct sparse_lines *lines,
                     struct error **error)
{
    uint64_t number = lines->number;
    lines->number = 0;
    lines->digits = 0;
    if (!lines->has_count) {
        lines->has_count = true;
        lines->left = number;
        if (number > ENTRY_SEGMENTS_MAX)
            return error_set(error, ERROR_UNSUPPORTED, "its sparse map has more than %u segments",
                             ENTRY_SEGMENTS_MAX);
        return 0;
    }
    lines->has_offset = !lines->has_offset;
    if (lines->has_offset) {
        lines->offset = number;
        return 0;
    }
    lines->left--;
    return sparse_segments_add(sparse, lines->offset, number, error);
}

int sparse_read_lines(struct sparse_segments *sparse, struct sparse_lines *lines,
                      const uint8_t *block, bool *ret_more, struct error **error)
{
    for (size_t i = 0; i < TAR_BLOCK && !(lines->has_count && lines->left == 0); i++) {
        uint8_t c = block[i];
        bool good = c == '\n' ? lines->digits > 0 : c >= '0' && c <= '9' && lines->digits < 19;
        if (!good) return error_set(error, ERROR_INVALID, "its sparse map is malformed");
        if (c == '\n') {
            if (take_line(sparse, lines, error) < 0) return -1;
        } else {
            lines->number = lines->number * 10 + (uint64_t)(c - '0');
            lines->digits++;
        }
    }
    *ret_more = !lines->has_count || lines->left > 0;
    return 0;
}
