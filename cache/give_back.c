/* What nobody needs any more, by its digest: it goes now, and does not wait for an eviction. */
#include <fcntl.h>
#include <sys/stat.h>

#include "cache/layer_files-internal.h"
#include "cache/room-internal.h"

bool cache_has_layer(struct cache *cache, const struct digest *key)
{
    char name[DIGEST_HEX_SIZE];
    struct stat status;
    return fstatat(cache->layers, digest_format_hex(key, name), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Of a file that is there; 0: there is none. */
static uint64_t remove_small_file(int directory, const char *name)
{
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0) return 0;
    cache_remove_entry(directory, name);
    return (uint64_t)status.st_blocks * 512;
}

/* False: somebody uses it. */
static bool give_back(struct cache *cache, const struct used_blobs *used,
                      const struct digest *digest, uint64_t *freed)
{
    char name[DIGEST_HEX_SIZE];
    digest_format_hex(digest, name);
    if (used_blobs_have(used, digest)) return false;
    if (cache_has_layer(cache, digest)) {
        uint64_t size = cache_entry_size(cache->layers, name);
        if (!layer_files_remove(cache, name)) return false;
        *freed += size;
    }
    *freed += remove_small_file(cache->blobs, name) + remove_small_file(cache->names, name);
    return true;
}

size_t cache_give_back(struct cache *cache, struct digest *digests, size_t count)
{
    struct used_blobs used;
    uint64_t freed = 0;
    size_t left = 0;
    used_blobs_read(cache, &used);
    for (size_t i = 0; i < count; i++)
        if (!give_back(cache, &used, &digests[i], &freed)) digests[left++] = digests[i];
    used_blobs_free(&used);
    room_freed(cache->room, freed);
    return left;
}
