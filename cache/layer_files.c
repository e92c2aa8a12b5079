#include "cache/layer_files-internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

/* `chunks`: a header, then for each chunk its length, its state, its last use. */
#define CHUNKS_MAGIC    "SLUICECC"
#define CHUNKS_VERSION  1u
#define HEADER_LENGTH   64u
#define DIGESTED_LENGTH 32u /* of the header; its digest follows, over these and the lengths */
#define BYTES_PER_CHUNK 12u
/* No chunk table has more. */
#define CHUNK_COUNT_MAX (4u << 20)

/* Bytes of `chunks` that are locks: one for each chunk, and these. */
#define LOCK_IN_USE ((uint64_t)1 << 32)
#define LOCK_KEPT   (LOCK_IN_USE + 1)
#define LOCK_DATA   (LOCK_IN_USE + 2)

#define STRUCTURE_PATIENCE_MS 5000u
/* Somebody who takes an unused layer away holds its lock for moments. */
#define OPEN_ATTEMPTS 100u
#define OPEN_AGAIN_MS 10u

static uint64_t chunks_length(uint32_t chunk_count)
{
    return HEADER_LENGTH + (uint64_t)chunk_count * BYTES_PER_CHUNK;
}

static uint64_t data_length(uint64_t stream_length)
{
    return (stream_length + LAYER_DATA_ALIGNMENT - 1) / LAYER_DATA_ALIGNMENT * LAYER_DATA_ALIGNMENT;
}

/* ---- what does not change in `chunks` ---- */

static void digest_of_header(const uint8_t *header, const uint8_t *lengths, uint32_t chunk_count,
                             struct digest_stream *stream, struct digest *ret)
{
    digest_stream_update(stream, header, DIGESTED_LENGTH);
    digest_stream_update(stream, lengths, (size_t)chunk_count * 4);
    digest_stream_finish(stream, ret);
}

/* Header and lengths. */
static int encode(const struct layer_shape *shape, struct buffer *ret)
{
    cleanup_buffer struct buffer lengths = { 0 };
    struct digest digest;
    int failed = 0;
    for (uint32_t i = 0; i < shape->chunk_count; i++)
        failed |= buffer_append_le32(&lengths, shape->lengths[i]);
    failed |= buffer_append(ret, CHUNKS_MAGIC, 8) | buffer_append_le32(ret, CHUNKS_VERSION) |
              buffer_append_le32(ret, shape->chunk_count) |
              buffer_append_le64(ret, shape->stream_length) | buffer_append_le64(ret, 0);
    struct digest_stream *stream = digest_stream_new();
    if (failed || !stream) {
        digest_stream_free(stream);
        return -1;
    }
    digest_of_header(ret->data, lengths.data, shape->chunk_count, stream, &digest);
    digest_stream_free(stream);
    return buffer_append(ret, digest.bytes, DIGEST_BYTES) |
           buffer_append(ret, lengths.data, lengths.length);
}

/* Header and lengths of a file that anybody may have written. */
static int decode(const uint8_t *data, size_t length, uint32_t chunk_count,
                  struct layer_files *files)
{
    struct cursor cursor = cursor_of(data, length);
    const uint8_t *magic = cursor_bytes(&cursor, 8);
    uint32_t version = cursor_le32(&cursor), count = cursor_le32(&cursor);
    files->stream_length = cursor_le64(&cursor);
    cursor_le64(&cursor);
    const uint8_t *stated = cursor_bytes(&cursor, DIGEST_BYTES);
    if (cursor.failed || memcmp(magic, CHUNKS_MAGIC, 8) != 0 || version != CHUNKS_VERSION ||
        count != chunk_count || files->stream_length > INT64_MAX - LAYER_DATA_ALIGNMENT)
        return -1;
    struct digest digest;
    struct digest_stream *stream = digest_stream_new();
    if (!stream) return -1;
    digest_of_header(data, data + HEADER_LENGTH, count, stream, &digest);
    digest_stream_free(stream);
    if (memcmp(digest.bytes, stated, DIGEST_BYTES) != 0) return -1;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += files->lengths[i] = cursor_le32(&cursor);
    return sum == files->stream_length ? 0 : -1;
}

/* ---- opening what is there ---- */

static int map(struct layer_files *files)
{
    struct error *error = NULL;
    if (mapping_new(&files->mapping, files->chunks, chunks_length(files->chunk_count),
                    MAPPING_READ_WRITE, &error) < 0) {
        int number = error_errno(error);
        error_free(error);
        errno = number ? number : ENOMEM;
        return -1;
    }
    uint8_t *start = mapping_data(files->mapping);
    size_t column = (size_t)files->chunk_count * 4;
    files->states = (_Atomic uint32_t *)(void *)(start + HEADER_LENGTH + column);
    files->used = (_Atomic uint32_t *)(void *)(start + HEADER_LENGTH + 2 * column);
    return 0;
}

static int odd(void)
{
    errno = ENOENT;
    return -1;
}

/* The two files. -1 with ENOENT: they are not there, or not ours. */
static int open_pair(const struct cache *cache, const char *name, struct layer_files *files,
                     uint64_t *ret_data_length, uint64_t *ret_chunks_length)
{
    struct stat status;
    cleanup_close int directory =
        openat(cache->layers, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) return errno == ENOTDIR || errno == ELOOP || errno == EACCES ? odd() : -1;
    if (fstat(directory, &status) < 0) return -1;
    if (status.st_uid != geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH))) return odd();
    files->data = cache_open_file(directory, "data", O_RDWR, &status);
    if (files->data < 0) return -1;
    *ret_data_length = (uint64_t)status.st_size;
    files->chunks = cache_open_file(directory, "chunks", O_RDWR, &status);
    if (files->chunks < 0) return -1;
    *ret_chunks_length = (uint64_t)status.st_size;
    return 0;
}

static int read_header(struct layer_files *files, uint64_t stated_length)
{
    uint64_t count = stated_length < HEADER_LENGTH
                         ? CHUNK_COUNT_MAX + 1
                         : (stated_length - HEADER_LENGTH) / BYTES_PER_CHUNK;
    if (count > CHUNK_COUNT_MAX || chunks_length((uint32_t)count) != stated_length) return odd();
    files->chunk_count = (uint32_t)count;
    size_t length = HEADER_LENGTH + (size_t)count * 4;
    cleanup_free uint8_t *header = malloc(length);
    files->lengths = malloc((size_t)count * 4 + 1);
    if (!header || !files->lengths) {
        errno = ENOMEM;
        return -1;
    }
    if (read_fully_at(files->chunks, header, length, 0) != (ssize_t)length) return odd();
    return decode(header, length, (uint32_t)count, files) < 0 ? odd() : 0;
}

static int look(const struct cache *cache, const char *name, struct layer_files *files)
{
    uint64_t found_data = 0, found_chunks = 0;
    if (open_pair(cache, name, files, &found_data, &found_chunks) < 0 ||
        read_header(files, found_chunks) < 0)
        return -1;
    files->data_length = data_length(files->stream_length);
    if (found_data != files->data_length) return odd();
    return map(files);
}

int layer_files_look(const struct cache *cache, const char *name, struct layer_files *ret)
{
    *ret = (struct layer_files)LAYER_FILES_NONE;
    snprintf(ret->name, sizeof ret->name, "%s", name);
    if (look(cache, name, ret) == 0) return 0;
    int number = errno;
    layer_files_close(ret);
    errno = number;
    return -1;
}

void layer_files_close(struct layer_files *files)
{
    mapping_free(files->mapping);
    free(files->lengths);
    if (files->data >= 0) close(files->data);
    if (files->chunks >= 0) close(files->chunks);
    *files = (struct layer_files)LAYER_FILES_NONE;
}

/* ---- opening to use ---- */

/* Whether the files that were opened are still those under the name. */
static bool in_place(const struct cache *cache, const char *name, const struct layer_files *files)
{
    char path[DIGEST_HEX_SIZE + sizeof "/chunks"];
    struct stat opened, found;
    snprintf(path, sizeof path, "%s/chunks", name);
    return fstat(files->chunks, &opened) == 0 &&
           fstatat(cache->layers, path, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
           opened.st_ino == found.st_ino && opened.st_dev == found.st_dev;
}

/* -1 with ENOENT: missing or odd; EAGAIN: is being taken away. */
static int use(const struct cache *cache, const char *name, const struct layer_shape *shape,
               struct layer_files *files)
{
    if (layer_files_look(cache, name, files) < 0) return -1;
    int number = 0;
    if (files->stream_length != shape->stream_length || files->chunk_count != shape->chunk_count ||
        (shape->chunk_count > 0 &&
         memcmp(files->lengths, shape->lengths, shape->chunk_count * sizeof *shape->lengths) != 0))
        number = ENOENT;
    else if (!file_lock(files->chunks, F_RDLCK, LOCK_IN_USE, shape->keep ? 2 : 1) ||
             !in_place(cache, name, files))
        number = EAGAIN;
    if (!number) {
        free(files->lengths);
        files->lengths = NULL;
        return 0;
    }
    layer_files_close(files);
    errno = number;
    return -1;
}

/* ---- making ---- */

static int make_file(int directory, const char *name)
{
    return openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

/* `chunks` is written to its end: a page of it that has no place on the disk could not be had on a
 * full one, when somebody touches it. */
static int fill_directory(int directory, const struct layer_shape *shape)
{
    cleanup_buffer struct buffer chunks = { 0 };
    if (encode(shape, &chunks) < 0 ||
        buffer_append_zeros(&chunks, (size_t)shape->chunk_count * (BYTES_PER_CHUNK - 4)) < 0) {
        errno = ENOMEM;
        return -1;
    }
    cleanup_close int data = make_file(directory, "data");
    cleanup_close int states = data < 0 ? -1 : make_file(directory, "chunks");
    if (states < 0 || ftruncate(data, (off_t)data_length(shape->stream_length)) < 0) return -1;
    return write_fully(states, chunks.data, chunks.length);
}

/* A directory in the layer's place gets another name, in one step, and goes. */
static int take_away(const struct cache *cache, const char *name)
{
    char gone[CACHE_TEMPORARY_NAME_SIZE];
    if (unlinkat(cache->layers, name, 0) == 0) return 0;
    cache_temporary_name(gone);
    if (renameat(cache->layers, name, cache->layers, gone) < 0) return errno == ENOENT ? 0 : -1;
    cache_remove_entry(cache->layers, gone);
    return 0;
}

static int make_directory(const struct cache *cache, const char *name,
                          const struct layer_shape *shape)
{
    char made[CACHE_TEMPORARY_NAME_SIZE];
    cache_temporary_name(made);
    if (mkdirat(cache->layers, made, 0700) < 0) return -1;
    cleanup_close int directory =
        openat(cache->layers, made, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int result = directory < 0 ? -1 : fill_directory(directory, shape);
    if (result == 0) result = take_away(cache, name);
    if (result == 0) result = renameat(cache->layers, made, cache->layers, name);
    if (result == 0) return 0;
    int number = errno;
    cache_remove_entry(cache->layers, made);
    errno = number;
    return -1;
}

/* Puts a new directory in the place of one that is missing or odd, unless somebody was faster. */
static int make_and_use(struct cache *cache, const char *name, const struct layer_shape *shape,
                        struct layer_files *ret)
{
    if (!cache_lock(cache, CACHE_LOCK_STRUCTURE, STRUCTURE_PATIENCE_MS)) {
        errno = EBUSY;
        return -1;
    }
    int result = use(cache, name, shape, ret);
    if (result < 0 && errno == ENOENT) {
        result = make_directory(cache, name, shape);
        if (result == 0) result = use(cache, name, shape, ret);
    }
    int number = errno;
    cache_unlock(cache, CACHE_LOCK_STRUCTURE);
    errno = number;
    return result;
}

int layer_files_open(struct cache *cache, const struct digest *key, const struct layer_shape *shape,
                     struct layer_files *ret, struct error **error)
{
    char name[DIGEST_HEX_SIZE];
    digest_format_hex(key, name);
    *ret = (struct layer_files)LAYER_FILES_NONE;
    if (shape->stream_length > INT64_MAX - LAYER_DATA_ALIGNMENT ||
        shape->chunk_count > CHUNK_COUNT_MAX)
        return error_set(error, ERROR_INVALID,
                         "a layer of %llu bytes in %u chunks is too long to be cached",
                         (unsigned long long)shape->stream_length, shape->chunk_count);
    for (unsigned attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
        if (use(cache, name, shape, ret) == 0) return 0;
        if (errno == ENOENT && make_and_use(cache, name, shape, ret) == 0) return 0;
        if (errno != EAGAIN) break;
        usleep(OPEN_AGAIN_MS * 1000);
    }
    return error_set_errno(error, errno, "open the files of layer %s in cache directory '%s'", name,
                           cache->directory);
}

/* ---- who has it open ---- */

bool layer_files_in_use(const struct layer_files *files)
{
    return file_is_locked(files->chunks, LOCK_IN_USE, 1);
}

bool layer_files_kept(const struct layer_files *files)
{
    return file_is_locked(files->chunks, LOCK_KEPT, 1);
}

bool layer_files_lock_data(const struct layer_files *files, bool alone)
{
    return file_lock(files->chunks, alone ? F_WRLCK : F_RDLCK, LOCK_DATA, 1);
}

void layer_files_unlock_data(const struct layer_files *files)
{
    file_lock(files->chunks, F_UNLCK, LOCK_DATA, 1);
}

void layer_files_drop(struct cache *cache, const struct layer_files *files)
{
    if (!cache_lock(cache, CACHE_LOCK_STRUCTURE, STRUCTURE_PATIENCE_MS)) return;
    if (in_place(cache, files->name, files)) take_away(cache, files->name);
    cache_unlock(cache, CACHE_LOCK_STRUCTURE);
}

bool layer_files_remove(struct cache *cache, const char *name)
{
    struct layer_files files;
    if (!cache_lock(cache, CACHE_LOCK_STRUCTURE, STRUCTURE_PATIENCE_MS)) return false;
    bool removed = true;
    if (layer_files_look(cache, name, &files) == 0) {
        /* Held until it is away, so that nobody begins to use it. */
        removed = file_lock(files.chunks, F_WRLCK, LOCK_IN_USE, 3) && take_away(cache, name) == 0;
        layer_files_close(&files);
    } else {
        removed = errno == ENOENT && take_away(cache, name) == 0;
    }
    cache_unlock(cache, CACHE_LOCK_STRUCTURE);
    return removed;
}

uint64_t layer_files_size(const struct layer_files *files)
{
    struct stat data, chunks;
    if (fstat(files->data, &data) < 0 || fstat(files->chunks, &chunks) < 0) return 0;
    return ((uint64_t)data.st_blocks + (uint64_t)chunks.st_blocks) * 512;
}

/* ---- chunks ---- */

bool layer_files_lock_chunks(const struct layer_files *files, uint32_t first, uint32_t count)
{
    return file_lock(files->chunks, F_WRLCK, first, count);
}

void layer_files_unlock_chunks(const struct layer_files *files, uint32_t first, uint32_t count)
{
    file_lock(files->chunks, F_UNLCK, first, count);
}

static uint32_t state_of(const struct layer_files *files, uint32_t chunk)
{
    uint32_t state = le32toh(atomic_load_explicit(&files->states[chunk], memory_order_acquire));
    return mapping_is_damaged(files->mapping) ? 0 : state;
}

static bool change_state(const struct layer_files *files, uint32_t chunk, uint32_t from,
                         uint32_t to)
{
    uint32_t expected = htole32(from);
    return atomic_compare_exchange_strong(&files->states[chunk], &expected, htole32(to));
}

uint32_t layer_files_generation(const struct layer_files *files, uint32_t chunk)
{
    uint32_t state = state_of(files, chunk);
    return state % 2 ? state : 0;
}

uint32_t layer_files_publish(const struct layer_files *files, uint32_t chunk)
{
    layer_files_touch(files, chunk);
    for (;;) {
        uint32_t state = state_of(files, chunk);
        if (mapping_is_damaged(files->mapping)) return 0;
        /* Odd: it was there before, and was written once more. */
        if (state % 2) return state;
        if (change_state(files, chunk, state, state + 1)) return state + 1;
    }
}

bool layer_files_clear(const struct layer_files *files, uint32_t chunk, uint32_t generation)
{
    return generation % 2 && change_state(files, chunk, generation, generation + 1);
}

void layer_files_touch(const struct layer_files *files, uint32_t chunk)
{
    uint32_t now = htole32(cache_now());
    if (atomic_load_explicit(&files->used[chunk], memory_order_relaxed) != now)
        atomic_store_explicit(&files->used[chunk], now, memory_order_relaxed);
}

uint32_t layer_files_last_use(const struct layer_files *files, uint32_t chunk)
{
    return le32toh(atomic_load_explicit(&files->used[chunk], memory_order_relaxed));
}
