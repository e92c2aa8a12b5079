#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "index/profile-internal.h"

/* What an entry takes at the most: five varints of 32 bits. */
#define ENTRY_BYTES_MOST (5u * 5)
/* Magic, version, number of layers, number of entries. */
#define HEAD_BYTES_MOST (8u + 4 + 4 + 5)

struct known_path {
    const char *path;
    uint32_t ordinal;
};

struct profile_writer {
    const struct profile_layer *layers; /* a copy */
    size_t layer_count;
    struct profile profile;
    size_t capacity; /* of its entries and of its paths */
    struct profile_marks marks;
    void *known;   /* tsearch(3): struct known_path */
    uint64_t most; /* bytes when encoded, at the most */
};

int profile_writer_new(struct profile_writer **ret, const struct profile_layer *layers,
                       size_t layer_count, struct error **error)
{
    struct profile_writer *writer = calloc(1, sizeof *writer);
    struct profile_layer *copy = calloc(layer_count + 1, sizeof *copy);
    if (!writer || !copy) {
        free(writer);
        free(copy);
        return error_set_memory(error);
    }
    for (size_t i = 0; i < layer_count; i++)
        copy[i] = layers[i];
    writer->layers = copy;
    writer->layer_count = layer_count;
    writer->most = HEAD_BYTES_MOST + layer_count * DIGEST_BYTES;
    if (profile_marks_init(&writer->marks, copy, layer_count, error) < 0) {
        profile_writer_free(writer);
        return -1;
    }
    *ret = writer;
    return 0;
}

void profile_writer_free(struct profile_writer *writer)
{
    if (!writer) return;
    tdestroy(writer->known, free);
    profile_free(&writer->profile);
    profile_marks_free(&writer->marks);
    free((void *)writer->layers);
    free(writer);
}

/* Room for one more entry and one more path. */
static int reserve(struct profile_writer *writer)
{
    struct profile *profile = &writer->profile;
    if (profile->entries && profile->entry_count < writer->capacity) return 0;
    size_t capacity = writer->capacity ? 2 * writer->capacity : 256;
    struct profile_entry *entries = realloc(profile->entries, capacity * sizeof *entries);
    if (entries) profile->entries = entries;
    char **paths = realloc(profile->paths, capacity * sizeof *paths);
    if (paths) profile->paths = paths;
    if (!entries || !paths) return -1;
    writer->capacity = capacity;
    return 0;
}

static int compare_known(const void *left, const void *right)
{
    return strcmp(((const struct known_path *)left)->path,
                  ((const struct known_path *)right)->path);
}

static const struct known_path *find_path(struct profile_writer *writer, const char *path)
{
    struct known_path key = { .path = path };
    struct known_path **found = tfind(&key, &writer->known, compare_known);
    return found ? *found : NULL;
}

/* 0, or out of memory. */
static int add_path(struct profile_writer *writer, const char *path, uint32_t *ret)
{
    struct profile *profile = &writer->profile;
    struct known_path *known = malloc(sizeof *known);
    char *copy = strdup(path);
    if (known && copy) {
        *known = (struct known_path){ copy, (uint32_t)profile->path_count };
        if (tsearch(known, &writer->known, compare_known)) {
            *ret = known->ordinal;
            profile->paths[profile->path_count++] = copy;
            return 0;
        }
    }
    free(known);
    free(copy);
    return -1;
}

/* 1: an entry was added, 0: it would make the profile too large, -1: out of memory. */
static int add_entry(struct profile_writer *writer, struct profile_entry *entry, const char *path,
                     const struct known_path *known)
{
    struct profile *profile = &writer->profile;
    uint64_t more = ENTRY_BYTES_MOST + (path && !known ? 5 + strlen(path) : 0);
    if (writer->most + more > PROFILE_LENGTH_MAX) return 0;
    if (reserve(writer) < 0) return -1;
    if (path && !known && add_path(writer, path, &entry->path) < 0) return -1;
    writer->most += more;
    profile->entries[profile->entry_count++] = *entry;
    return 1;
}

int profile_writer_add(struct profile_writer *writer, uint32_t layer, uint32_t chunk,
                       uint64_t milliseconds, const char *path, struct error **error)
{
    struct profile *profile = &writer->profile;
    if (layer >= writer->layer_count || chunk >= writer->layers[layer].chunk_count)
        return error_set(error, ERROR_INVALID, "layer %u has no chunk %u", layer, chunk);
    if (!profile_marks_set(&writer->marks, layer, chunk)) return 0;
    if (path && (!*path || strlen(path) > PROFILE_PATH_LENGTH_MAX)) path = NULL;
    const struct known_path *known = path ? find_path(writer, path) : NULL;
    struct profile_entry *last =
        profile->entry_count ? &profile->entries[profile->entry_count - 1] : NULL;
    struct profile_entry entry = { .layer = layer, .first = chunk, .count = 1 };
    entry.path = known ? known->ordinal : PROFILE_NO_PATH;
    if (last && last->layer == layer && chunk == last->first + last->count &&
        entry.path == last->path && (known || !path)) {
        last->count++;
        profile->chunk_count++;
        return 0;
    }
    if (milliseconds > UINT32_MAX) milliseconds = UINT32_MAX;
    if (last && milliseconds < last->milliseconds) milliseconds = last->milliseconds;
    entry.milliseconds = (uint32_t)milliseconds;
    int added = add_entry(writer, &entry, path, known);
    if (added < 0) return error_set_memory(error);
    if (added) profile->chunk_count++;
    return 0;
}

int profile_writer_add_all(struct profile_writer *writer, const struct profile *profile,
                           struct error **error)
{
    for (size_t i = 0; i < profile->entry_count; i++) {
        const struct profile_entry *entry = &profile->entries[i];
        const char *path = entry->path == PROFILE_NO_PATH ? NULL : profile->paths[entry->path];
        for (uint32_t k = 0; k < entry->count; k++)
            if (profile_writer_add(writer, entry->layer, entry->first + k, entry->milliseconds,
                                   path, error) < 0)
                return -1;
    }
    return 0;
}

static int encode_entry(struct buffer *ret, const struct profile *profile, size_t position,
                        size_t *known)
{
    static const struct profile_entry start = { 0 };
    const struct profile_entry *entry = &profile->entries[position];
    const struct profile_entry *last = position ? entry - 1 : &start;
    bool new_path = entry->path == *known && entry->path != PROFILE_NO_PATH;
    int failed = buffer_append_varint(ret, entry->layer);
    failed |= buffer_append_varint(ret, profile_zigzag(entry->first - last->first - last->count));
    failed |= buffer_append_varint(ret, entry->count);
    failed |= buffer_append_varint(ret, entry->milliseconds - last->milliseconds);
    failed |= buffer_append_varint(ret, entry->path == PROFILE_NO_PATH ? 0 : entry->path + 1);
    if (!new_path) return failed;
    size_t length = strlen(profile->paths[entry->path]);
    failed |= buffer_append_varint(ret, length);
    failed |= buffer_append(ret, profile->paths[entry->path], length);
    ++*known;
    return failed;
}

int profile_writer_encode(const struct profile_writer *writer, struct buffer *ret,
                          struct error **error)
{
    const struct profile *profile = &writer->profile;
    size_t known = 0;
    int failed = buffer_append(ret, PROFILE_MAGIC, strlen(PROFILE_MAGIC));
    failed |= buffer_append_le32(ret, PROFILE_VERSION);
    failed |= buffer_append_le32(ret, (uint32_t)writer->layer_count);
    for (size_t i = 0; i < writer->layer_count; i++)
        failed |= buffer_append(ret, writer->layers[i].table_digest.bytes, DIGEST_BYTES);
    failed |= buffer_append_varint(ret, profile->entry_count);
    for (size_t i = 0; i < profile->entry_count; i++)
        failed |= encode_entry(ret, profile, i, &known);
    return failed ? error_set_memory(error) : 0;
}
