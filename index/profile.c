#include <stdlib.h>
#include <string.h>

#include "index/profile-internal.h"

/* layer, first, count, time and path, a byte each at least */
#define ENTRY_BYTES_LEAST 5u

/* ---- marks ---- */

int profile_marks_init(struct profile_marks *marks, const struct profile_layer *layers,
                       size_t layer_count, struct error **error)
{
    marks->layer_count = layer_count;
    marks->bits = calloc(layer_count + 1, sizeof *marks->bits);
    if (!marks->bits) return error_set_memory(error);
    for (size_t i = 0; i < layer_count; i++) {
        marks->bits[i] = calloc(layers[i].chunk_count / 8 + 1, 1);
        if (!marks->bits[i]) return error_set_memory(error);
    }
    return 0;
}

void profile_marks_free(struct profile_marks *marks)
{
    if (marks->bits)
        for (size_t i = 0; i < marks->layer_count; i++)
            free(marks->bits[i]);
    free(marks->bits);
}

bool profile_marks_set(struct profile_marks *marks, uint32_t layer, uint32_t chunk)
{
    uint8_t *byte = &marks->bits[layer][chunk / 8], bit = (uint8_t)(1u << chunk % 8);
    if (*byte & bit) return false;
    *byte |= bit;
    return true;
}

/* ---- decoding ---- */

struct profile_reader {
    struct cursor cursor;
    const struct profile_layer *layers;
    size_t layer_count;
    struct profile *profile;
    struct profile_marks marks;
    uint64_t path_limit;
};

static uint32_t take_varint(struct cursor *cursor)
{
    uint64_t value = cursor_varint(cursor);
    if (value > UINT32_MAX) cursor->failed = 1;
    return cursor->failed ? 0 : (uint32_t)value;
}

/* 0, or the error is set. */
static int read_head(struct profile_reader *reader, struct error **error)
{
    struct cursor *cursor = &reader->cursor;
    const uint8_t *magic = cursor_bytes(cursor, strlen(PROFILE_MAGIC));
    if (!magic || memcmp(magic, PROFILE_MAGIC, strlen(PROFILE_MAGIC)) != 0)
        return error_set(error, ERROR_INVALID, "it is no profile");
    uint32_t version = cursor_le32(cursor);
    if (!cursor->failed && version != PROFILE_VERSION)
        return error_set(error, ERROR_UNSUPPORTED,
                         "it has version %u, which this sluice does not know", version);
    uint32_t count = cursor_le32(cursor);
    bool same = count == reader->layer_count;
    for (size_t i = 0; same && i < reader->layer_count; i++) {
        const uint8_t *digest = cursor_bytes(cursor, DIGEST_BYTES);
        same = digest && memcmp(digest, reader->layers[i].table_digest.bytes, DIGEST_BYTES) == 0;
    }
    if (cursor->failed) return error_set(error, ERROR_INVALID, "it is cut short");
    if (!same) return error_set(error, ERROR_UNSUPPORTED, "it is a profile of other layers");
    return 0;
}

static const char *read_path(struct profile_reader *reader)
{
    struct profile *profile = reader->profile;
    uint32_t length = take_varint(&reader->cursor);
    const uint8_t *bytes = cursor_bytes(&reader->cursor, length);
    if (!bytes || length == 0 || length > PROFILE_PATH_LENGTH_MAX ||
        memchr(bytes, 0, length) != NULL || profile->path_count == reader->path_limit)
        return "has a path that cannot be";
    char *path = strndup((const char *)bytes, length);
    if (!path) return "needs more memory than there is";
    profile->paths[profile->path_count++] = path;
    return NULL;
}

static bool continues(const struct profile_entry *last, const struct profile_entry *next)
{
    return next->layer == last->layer && next->first == last->first + last->count &&
           next->path == last->path;
}

static const char *mark_chunks(struct profile_reader *reader, const struct profile_entry *entry)
{
    if (entry->layer >= reader->layer_count || entry->count == 0) return "names no layer's chunks";
    uint32_t chunks = reader->layers[entry->layer].chunk_count;
    if (entry->first >= chunks || entry->count > chunks - entry->first)
        return "names a chunk that its layer does not have";
    for (uint32_t i = 0; i < entry->count; i++)
        if (!profile_marks_set(&reader->marks, entry->layer, entry->first + i))
            return "names a chunk twice";
    return NULL;
}

static const char *read_entry(struct profile_reader *reader, const struct profile_entry *last)
{
    struct cursor *cursor = &reader->cursor;
    struct profile *profile = reader->profile;
    struct profile_entry entry = { .layer = take_varint(cursor) };
    const char *fault = NULL;
    entry.first = (last ? last->first + last->count : 0) + profile_unzigzag(take_varint(cursor));
    entry.count = take_varint(cursor);
    uint64_t time = (last ? last->milliseconds : 0) + (uint64_t)take_varint(cursor);
    /* 0: no path; then the known ones; one more: a new one follows. */
    uint32_t path = take_varint(cursor);
    if (cursor->failed) return "is cut short";
    if (time > UINT32_MAX) return "has a time that cannot be";
    if (path > profile->path_count + 1) return "has a path that cannot be";
    if (path == profile->path_count + 1) fault = read_path(reader);
    if (fault) return fault;
    entry.milliseconds = (uint32_t)time;
    entry.path = path == 0 ? PROFILE_NO_PATH : path - 1;
    if (last && continues(last, &entry)) return "has entries that are one";
    profile->entries[profile->entry_count++] = entry;
    profile->chunk_count += entry.count;
    return mark_chunks(reader, &entry);
}

static int compare_paths(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static const char *check_paths_differ(const struct profile *profile)
{
    if (profile->path_count == 0) return NULL;
    char **sorted = malloc(profile->path_count * sizeof *sorted);
    if (!sorted) return "needs more memory than there is";
    memcpy(sorted, profile->paths, profile->path_count * sizeof *sorted);
    qsort(sorted, profile->path_count, sizeof *sorted, compare_paths);
    bool twice = false;
    for (size_t i = 1; i < profile->path_count; i++)
        twice |= strcmp(sorted[i - 1], sorted[i]) == 0;
    free(sorted);
    return twice ? "names a path twice" : NULL;
}

static const char *read_entries(struct profile_reader *reader)
{
    struct cursor *cursor = &reader->cursor;
    struct profile *profile = reader->profile;
    uint32_t count = take_varint(cursor);
    const char *fault = NULL;
    if (cursor->failed || count > cursor_left(cursor) / ENTRY_BYTES_LEAST) return "is cut short";
    profile->entries = calloc(count + 1u, sizeof *profile->entries);
    profile->paths = calloc(count + 1u, sizeof *profile->paths);
    if (!profile->entries || !profile->paths) return "needs more memory than there is";
    reader->path_limit = count;
    for (uint32_t i = 0; !fault && i < count; i++)
        fault = read_entry(reader, i ? &profile->entries[i - 1] : NULL);
    if (!fault && cursor_left(cursor) > 0) fault = "has bytes left over";
    return fault ? fault : check_paths_differ(profile);
}

int profile_decode(struct profile *ret, const void *data, size_t length,
                   const struct profile_layer *layers, size_t layer_count, struct error **error)
{
    struct profile_reader reader = { cursor_of(data, length), layers, layer_count, ret, { 0 }, 0 };
    *ret = (struct profile){ 0 };
    int result = read_head(&reader, error);
    if (result == 0) result = profile_marks_init(&reader.marks, layers, layer_count, error);
    if (result == 0) {
        const char *fault = read_entries(&reader);
        if (fault) result = error_set(error, ERROR_INVALID, "it %s", fault);
    }
    profile_marks_free(&reader.marks);
    if (result < 0) profile_free(ret);
    return result < 0 ? error_prefix(error, "profile") : 0;
}

void profile_free(struct profile *profile)
{
    for (size_t i = 0; i < profile->path_count; i++)
        free(profile->paths[i]);
    free(profile->paths);
    free(profile->entries);
    *profile = (struct profile){ 0 };
}
