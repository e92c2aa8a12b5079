/* What is in the directory, for people who look after it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/layer_files-internal.h"
#include "cache/room-internal.h"
#include "cache/seal-internal.h"

/* A record of a name is a small text. */
#define NAME_LENGTH_MAX ((size_t)256 << 10)
/* Blobs are hashed in pieces of this. */
#define PIECE_LENGTH ((size_t)1 << 20)

#define PRUNE_ROUNDS_MAX 100u

/* ---- layers ---- */

struct layer_walk {
    struct cache *cache;
    cache_layer_seen *seen;
    void *context;
};

static void count_chunks(const struct layer_files *files, struct cache_layer_info *info)
{
    for (uint32_t i = 0; i < files->chunk_count; i++) {
        if (!layer_files_generation(files, i)) continue;
        uint32_t last_use = layer_files_last_use(files, i);
        info->chunks_stored++;
        info->stored += files->lengths[i];
        if (last_use > info->last_use) info->last_use = last_use;
    }
}

static void look_at_layer(void *context, int directory, const char *name)
{
    const struct layer_walk *walk = context;
    struct cache_layer_info info = { 0 };
    struct layer_files files;
    (void)directory;
    if (!cache_digest_of_name(name, &info.key) || layer_files_look(walk->cache, name, &files) < 0)
        return;
    info.stream_length = files.stream_length;
    info.chunk_count = files.chunk_count;
    info.on_disk = layer_files_size(&files);
    info.in_use = layer_files_in_use(&files);
    count_chunks(&files, &info);
    struct seal_record record;
    info.sealed = info.chunks_stored == info.chunk_count && seal_read(walk->cache, &files, &record);
    layer_files_close(&files);
    walk->seen(walk->context, &info);
}

void cache_each_layer(struct cache *cache, cache_layer_seen *seen, void *context)
{
    struct layer_walk walk = { cache, seen, context };
    cache_each_entry(cache->layers, look_at_layer, &walk);
}

/* ---- names ---- */

struct name_walk {
    cache_name_seen *seen;
    void *context;
};

static void look_at_name(void *context, int directory, const char *name)
{
    const struct name_walk *walk = context;
    struct name_record record;
    struct stat status;
    cleanup_buffer struct buffer data = { 0 };
    cleanup_close int descriptor = cache_open_file(directory, name, O_RDONLY, &status);
    if (descriptor < 0 || (uint64_t)status.st_size > NAME_LENGTH_MAX ||
        buffer_reserve(&data, NAME_LENGTH_MAX) < 0)
        return;
    /* Not cache_read_file(): to look is not to use. */
    ssize_t count = read_fully_at(descriptor, data.data, NAME_LENGTH_MAX, 0);
    data.length = count > 0 ? (size_t)count : 0;
    if (name_record_read(&data, name, &record))
        walk->seen(walk->context, record.name, record.text, record.length);
}

void cache_each_name(struct cache *cache, cache_name_seen *seen, void *context)
{
    struct name_walk walk = { seen, context };
    cache_each_entry(cache->names, look_at_name, &walk);
}

/* ---- sizes ---- */

struct measured {
    uint64_t *size;
    uint32_t *count;
};

static void measure_entry(void *context, int directory, const char *name)
{
    const struct measured *measured = context;
    *measured->size += cache_entry_size(directory, name);
    ++*measured->count;
}

void cache_measure(struct cache *cache, struct cache_sizes *ret)
{
    uint64_t temporary = 0;
    uint32_t temporary_count = 0;
    *ret = (struct cache_sizes){ 0 };
    cache_each_entry(cache->layers, measure_entry,
                     &(struct measured){ &ret->layers, &ret->layer_count });
    cache_each_entry(cache->blobs, measure_entry,
                     &(struct measured){ &ret->blobs, &ret->blob_count });
    cache_each_entry(cache->names, measure_entry,
                     &(struct measured){ &ret->names, &ret->name_count });
    cache_each_entry(cache->temporary, measure_entry,
                     &(struct measured){ &temporary, &temporary_count });
    ret->on_disk = ret->layers + ret->blobs + ret->names + temporary;
}

/* ---- pruning ---- */

int cache_prune(struct cache *cache, uint64_t keep, uint64_t *ret_freed, struct error **error)
{
    struct eviction_result result = { .freed = 1 };
    struct cache_sizes before, now;
    cache_measure(cache, &before);
    now = before;
    /* What a chunk gives back is not exactly its length; what a disk lost gives back nothing. */
    for (unsigned round = 0; round == 0 || (now.on_disk > keep && result.freed > 0); round++) {
        if (round == PRUNE_ROUNDS_MAX) break;
        if (!room_prune(cache->room, keep, &result)) {
            error_set(error, ERROR_SYSTEM, "another process is evicting from cache directory '%s'",
                      cache->directory);
            return error_hint(error, "try again");
        }
        cache_measure(cache, &now);
    }
    *ret_freed = before.on_disk > now.on_disk ? before.on_disk - now.on_disk : 0;
    return 0;
}

/* ---- verifying ---- */

struct verify_walk {
    struct cache *cache;
    cache_damage_seen *seen;
    void *context;
    struct cache_verified *verified;
};

static void damaged(const struct verify_walk *walk, const char *kind, const char *name)
{
    cleanup_free char *what = format_text("%s %s", kind, name);
    walk->verified->damaged++;
    walk->seen(walk->context, what ? what : kind);
}

/* False: it could not be read. */
static bool hash_file(int descriptor, struct digest *ret, uint64_t *ret_length)
{
    cleanup_free uint8_t *piece = malloc(PIECE_LENGTH);
    struct digest_stream *stream = digest_stream_new();
    ssize_t count = piece && stream ? 1 : -1;
    *ret_length = 0;
    while (count > 0) {
        count = read_fully_at(descriptor, piece, PIECE_LENGTH, *ret_length);
        if (count <= 0) break;
        digest_stream_update(stream, piece, (size_t)count);
        *ret_length += (uint64_t)count;
    }
    if (stream) digest_stream_finish(stream, ret);
    digest_stream_free(stream);
    return count == 0;
}

static void verify_blob(void *context, int directory, const char *name)
{
    const struct verify_walk *walk = context;
    struct digest expected, found;
    struct stat status;
    uint64_t length = 0;
    walk->verified->blobs++;
    cleanup_close int descriptor = cache_open_file(directory, name, O_RDONLY, &status);
    bool intact = descriptor >= 0 && cache_digest_of_name(name, &expected) &&
                  hash_file(descriptor, &found, &length) && digest_equal(&expected, &found);
    walk->verified->bytes += length;
    if (intact) return;
    cache_remove_entry(directory, name);
    damaged(walk, "blob", name);
}

static void verify_name(void *context, int directory, const char *name)
{
    const struct verify_walk *walk = context;
    struct name_record record;
    cleanup_buffer struct buffer data = { 0 };
    walk->verified->names++;
    if (cache_read_file(directory, name, name, NAME_LENGTH_MAX, &data, NULL) == 0 &&
        name_record_read(&data, name, &record))
        return;
    cache_remove_entry(directory, name);
    damaged(walk, "name", name);
}

void cache_verify_files(struct cache *cache, cache_damage_seen *seen, void *context,
                        struct cache_verified *ret)
{
    struct verify_walk walk = { cache, seen, context, ret };
    cache_each_entry(cache->blobs, verify_blob, &walk);
    cache_each_entry(cache->names, verify_name, &walk);
}

/* A chunk that was evicted or stored again while it was read says nothing. */
static bool chunk_is_intact(const struct layer_files *files, uint32_t chunk, uint64_t offset,
                            const struct digest *expected, uint8_t *data)
{
    uint32_t generation = layer_files_generation(files, chunk);
    uint32_t length = files->lengths[chunk];
    struct digest found;
    if (!generation) return true;
    if (read_fully_at(files->data, data, length, offset) == (ssize_t)length) {
        digest_of(data, length, &found);
        if (digest_equal(expected, &found)) return true;
    }
    return !layer_files_clear(files, chunk, generation);
}

static void verify_chunks(const struct verify_walk *walk, const struct layer_files *files,
                          const char *name, const struct digest *digests, uint8_t *data)
{
    uint64_t offset = 0;
    struct seal_record record;
    bool sealed = seal_read(walk->cache, files, &record);
    /* Pages that are in memory say nothing of the disk. */
    posix_fadvise(files->data, 0, 0, POSIX_FADV_DONTNEED);
    for (uint32_t i = 0; i < files->chunk_count; offset += files->lengths[i++]) {
        if (!layer_files_generation(files, i)) continue;
        walk->verified->chunks++;
        walk->verified->bytes += files->lengths[i];
        if (chunk_is_intact(files, i, offset, &digests[i], data)) continue;
        if (sealed) seal_remove(walk->cache, files);
        cleanup_free char *kind = format_text("chunk %u of %slayer", i, sealed ? "sealed " : "");
        damaged(walk, kind ? kind : "a chunk of layer", name);
    }
}

int cache_verify_layer(struct cache *cache, const struct digest *key,
                       const struct layer_shape *shape, const struct digest *digests,
                       cache_damage_seen *seen, void *context, struct cache_verified *ret,
                       struct error **error)
{
    struct verify_walk walk = { cache, seen, context, ret };
    char name[DIGEST_HEX_SIZE];
    struct layer_files files;
    digest_format_hex(key, name);
    if (layer_files_look(cache, name, &files) < 0)
        return error_set(error, ERROR_NOT_FOUND, "layer %s is not in the cache", name);
    uint32_t longest = 0;
    bool fits = files.chunk_count == shape->chunk_count;
    for (uint32_t i = 0; i < files.chunk_count && fits; i++) {
        fits = files.lengths[i] == shape->lengths[i];
        if (files.lengths[i] > longest) longest = files.lengths[i];
    }
    cleanup_free uint8_t *data = fits ? malloc((size_t)longest + 1) : NULL;
    int result = 0;
    if (!fits)
        result =
            error_set(error, ERROR_NOT_FOUND, "layer %s has other chunks than its table", name);
    else if (!data)
        result = error_set_memory(error);
    else
        verify_chunks(&walk, &files, name, digests, data);
    layer_files_close(&files);
    return result;
}
