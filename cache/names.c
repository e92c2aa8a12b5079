/* What names last meant. A record is its SHA-256, then the name, a zero byte, and the text; its
 * file is named after the SHA-256 of the name. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/cache-internal.h"

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
    if (buffer_append_zeros(&record, DIGEST_BYTES) < 0 ||
        buffer_append(&record, name, strlen(name) + 1) < 0 ||
        buffer_append(&record, data, length) < 0)
        return error_set_memory(error);
    digest_of(record.data + DIGEST_BYTES, record.length - DIGEST_BYTES, &digest);
    memcpy(record.data, digest.bytes, DIGEST_BYTES);
    file_name(name, file);
    return cache_write_file(cache, cache->names, file, "a name", record.data, record.length, error);
}

bool name_record_read(const struct buffer *record, const char *file, struct name_record *ret)
{
    char expected[DIGEST_HEX_SIZE];
    struct digest digest;
    if (record->length <= DIGEST_BYTES) return false;
    const char *name = (const char *)record->data + DIGEST_BYTES;
    size_t left = record->length - DIGEST_BYTES, name_length = strnlen(name, left);
    digest_of(name, left, &digest);
    if (name_length == left || memcmp(digest.bytes, record->data, DIGEST_BYTES) != 0) return false;
    file_name(name, expected);
    if (strcmp(file, expected) != 0) return false;
    *ret = (struct name_record){ name, name + name_length + 1, left - name_length - 1 };
    return true;
}

int cache_recall(struct cache *cache, const char *name, size_t limit, struct buffer *ret,
                 struct error **error)
{
    char file[DIGEST_HEX_SIZE];
    struct name_record found;
    cleanup_buffer struct buffer record = { 0 };
    size_t overhead = DIGEST_BYTES + strlen(name) + 1;
    file_name(name, file);
    if (limit > SIZE_MAX - overhead) limit = SIZE_MAX - overhead;
    if (cache_read_file(cache->names, file, name, limit + overhead, &record, error) < 0) return -1;
    if (!name_record_read(&record, file, &found)) {
        unlinkat(cache->names, file, 0);
        return error_set(error, ERROR_NOT_FOUND, "'%s' was damaged in the cache", name);
    }
    return buffer_append(ret, found.text, found.length) < 0 ? error_set_memory(error) : 0;
}
