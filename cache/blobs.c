/* Small blobs by digest: the name says what the bytes must be. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cache/cache-internal.h"

int cache_get_blob(struct cache *cache, const struct digest *digest, size_t limit,
                   struct buffer *ret, struct error **error)
{
    char name[DIGEST_HEX_SIZE], what[DIGEST_TEXT_SIZE];
    digest_format_hex(digest, name);
    digest_format(digest, what);
    size_t start = ret->length;
    if (cache_read_file(cache->blobs, name, what, limit, ret, error) < 0) {
        ret->length = start;
        return -1;
    }
    struct digest found;
    digest_of(ret->data ? ret->data + start : (uint8_t *)"", ret->length - start, &found);
    if (digest_equal(&found, digest)) return 0;
    ret->length = start;
    cache_remove_blob(cache, digest);
    log_info("%s was damaged in cache directory '%s' and is removed", what, cache->directory);
    return error_set(error, ERROR_NOT_FOUND, "%s was damaged in the cache", what);
}

int cache_put_blob(struct cache *cache, const struct digest *digest, const void *data,
                   size_t length, struct error **error)
{
    char name[DIGEST_HEX_SIZE], what[DIGEST_TEXT_SIZE];
    return cache_write_file(cache, cache->blobs, digest_format_hex(digest, name),
                            digest_format(digest, what), data, length, error);
}

int cache_open_blob(struct cache *cache, const struct digest *digest, int *ret_descriptor,
                    uint64_t *ret_length, struct error **error)
{
    char name[DIGEST_HEX_SIZE], what[DIGEST_TEXT_SIZE];
    struct stat status;
    digest_format(digest, what);
    int descriptor =
        cache_open_file(cache->blobs, digest_format_hex(digest, name), O_RDONLY, &status);
    if (descriptor < 0 && errno == ENOENT)
        return error_set(error, ERROR_NOT_FOUND, "%s is not in the cache", what);
    if (descriptor < 0) return error_set_errno(error, errno, "open %s in the cache", what);
    cache_touch(descriptor, &status);
    *ret_descriptor = descriptor;
    *ret_length = (uint64_t)status.st_size;
    return 0;
}

void cache_remove_blob(struct cache *cache, const struct digest *digest)
{
    char name[DIGEST_HEX_SIZE];
    unlinkat(cache->blobs, digest_format_hex(digest, name), 0);
}
