/*
 * What names last meant. Nothing outside says what the bytes must be, so a file
 * starts with the digest of the name and the text: a file that was torn, or
 * that belongs to another name, is as good as none.
 */
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/cache-internal.h"

static int digest_of_record(const char *name, const void *data, size_t length, struct digest *ret)
{
    struct digest_stream *stream = digest_stream_new();
    if (!stream) return -1;
    digest_stream_update(stream, name, strlen(name) + 1);
    digest_stream_update(stream, data, length);
    digest_stream_finish(stream, ret);
    digest_stream_free(stream);
    return 0;
}

static void file_name(const char *name, char ret[DIGEST_HEX_SIZE])
{
    struct digest digest;
    digest_of(name, strlen(name), &digest);
    digest_format_hex(&digest, ret);
}

int cache_remember(struct cache *cache, const char *name, const void *data, size_t length,
                   struct error **error)
{
    char file[DIGEST_HEX_SIZE];
    struct digest digest;
    cleanup_buffer struct buffer record = { 0 };
    if (digest_of_record(name, data, length, &digest) < 0 ||
        buffer_append(&record, digest.bytes, DIGEST_BYTES) < 0 ||
        buffer_append(&record, data, length) < 0)
        return error_set_memory(error);
    file_name(name, file);
    return cache_write_file(cache, cache->names, file, "a name", record.data, record.length, error);
}

int cache_recall(struct cache *cache, const char *name, size_t limit, struct buffer *ret,
                 struct error **error)
{
    char file[DIGEST_HEX_SIZE];
    cleanup_buffer struct buffer record = { 0 };
    file_name(name, file);
    if (limit > SIZE_MAX - DIGEST_BYTES) limit = SIZE_MAX - DIGEST_BYTES;
    if (cache_read_file(cache->names, file, name, limit + DIGEST_BYTES, &record, error) < 0)
        return -1;
    struct digest digest;
    if (record.length < DIGEST_BYTES) {
        unlinkat(cache->names, file, 0);
        return error_set(error, ERROR_NOT_FOUND, "'%s' was damaged in the cache", name);
    }
    const uint8_t *text = record.data + DIGEST_BYTES;
    size_t length = record.length - DIGEST_BYTES;
    if (digest_of_record(name, text, length, &digest) < 0) return error_set_memory(error);
    if (memcmp(digest.bytes, record.data, DIGEST_BYTES) != 0) {
        unlinkat(cache->names, file, 0);
        return error_set(error, ERROR_NOT_FOUND, "'%s' was damaged in the cache", name);
    }
    return buffer_append(ret, text, length) < 0 ? error_set_memory(error) : 0;
}
