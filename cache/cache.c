/*
 * The directory itself. All access goes through descriptors of the directories
 * opened here, so that what was checked is what is used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cache/room-internal.h"

static int open_root(struct cache *cache, struct error **error)
{
    if (directory_make(cache->directory, 0700, error) < 0) return -1;
    cache->root = cache_open_directory(cache, -1, NULL, error);
    return cache->root < 0 ? -1 : 0;
}

static int open_lock(struct cache *cache, struct error **error)
{
    struct stat status;
    for (unsigned attempt = 0; attempt < 2 && cache->lock < 0; attempt++)
        cache->lock = cache_open_file(cache->root, "lock", O_RDWR | O_CREAT, &status);
    if (cache->lock >= 0) return 0;
    return error_set_errno(error, errno, "make '%s/lock'", cache->directory);
}

static int open_parts(struct cache *cache, struct error **error)
{
    struct {
        const char *name;
        int *descriptor;
    } const parts[] = {
        { "blobs", &cache->blobs },         { "names", &cache->names },
        { "layers", &cache->layers },       { "users", &cache->users },
        { "temporary", &cache->temporary }, { "refused", &cache->refused },
    };
    if (open_root(cache, error) < 0) return -1;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].descriptor = cache_open_directory(cache, cache->root, parts[i].name, error);
        if (*parts[i].descriptor < 0) return -1;
    }
    if (open_lock(cache, error) < 0) return -1;
    cache_clean_temporary(cache);
    if (ring_new(&cache->ring, error) < 0) return -1;
    return room_new(&cache->room, cache, error);
}

int cache_open(struct cache **ret, const char *directory, struct error **error)
{
    struct cache *cache = malloc(sizeof *cache);
    if (!cache) return error_set_memory(error);
    *cache = (struct cache){ .root = -1,
                             .blobs = -1,
                             .names = -1,
                             .layers = -1,
                             .users = -1,
                             .temporary = -1,
                             .refused = -1,
                             .lock = -1,
                             .locks = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER } };
    cache->directory = strdup(directory);
    int result = cache->directory ? open_parts(cache, error) : error_set_memory(error);
    if (result < 0) {
        cache_free(cache);
        return -1;
    }
    *ret = cache;
    return 0;
}

void cache_free(struct cache *cache)
{
    if (!cache) return;
    room_free(cache->room);
    ring_free(cache->ring);
    int descriptors[] = { cache->root,  cache->blobs,     cache->names,   cache->layers,
                          cache->users, cache->temporary, cache->refused, cache->lock };
    for (size_t i = 0; i < sizeof descriptors / sizeof *descriptors; i++)
        if (descriptors[i] >= 0) close(descriptors[i]);
    free(cache->directory);
    free(cache);
}

const char *cache_directory(const struct cache *cache)
{
    return cache->directory;
}

bool cache_uses_io_uring(const struct cache *cache)
{
    return ring_uses_io_uring(cache->ring);
}

void cache_set_limits(struct cache *cache, const struct cache_limits *limits)
{
    room_set_limits(cache->room, limits);
}

uint64_t cache_usage(const struct cache *cache)
{
    return room_usage(cache->room);
}

uint64_t cache_room_left(const struct cache *cache)
{
    return room_left(cache->room);
}

struct cache_limits cache_get_limits(const struct cache *cache)
{
    return room_limits(cache->room);
}
