/* What this node has found to lie. No eviction takes the records away: what they say cannot be
 * fetched again, and they are small. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/cache-internal.h"

#define REASON_LENGTH_MAX ((size_t)4096)

int cache_refuse(struct cache *cache, const struct digest *digest, const char *reason,
                 struct error **error)
{
    char name[DIGEST_HEX_SIZE];
    size_t length = strnlen(reason, REASON_LENGTH_MAX);
    return cache_write_file(cache, cache->refused, digest_format_hex(digest, name), "a refusal",
                            reason, length, error);
}

char *cache_refusal(struct cache *cache, const struct digest *digest)
{
    char name[DIGEST_HEX_SIZE];
    cleanup_buffer struct buffer text = { 0 };
    struct error *error = NULL;
    if (cache_read_file(cache->refused, digest_format_hex(digest, name), "a refusal",
                        REASON_LENGTH_MAX, &text, &error) == 0)
        return strndup(text.length ? (const char *)text.data : "", text.length);
    bool is_missing = faccessat(cache->refused, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
    error_free(error);
    return is_missing ? NULL : strdup("its record cannot be read");
}

void cache_end_refusal(struct cache *cache, const struct digest *digest)
{
    char name[DIGEST_HEX_SIZE];
    unlinkat(cache->refused, digest_format_hex(digest, name), 0);
}
