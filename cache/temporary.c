/* Files on their way to their place. Each is locked while somebody writes it, so that what a
 * process left when it died can be told from what is being written. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/room-internal.h"

/* Between making a file and locking it, or filling a layer's directory, somebody may be slow. */
#define LEFT_BEHIND_SECONDS 60

void cache_temporary_name(char name[CACHE_TEMPORARY_NAME_SIZE])
{
    static _Atomic unsigned long counter;
    snprintf(name, CACHE_TEMPORARY_NAME_SIZE, "%ld.%lu", (long)getpid(),
             atomic_fetch_add(&counter, 1));
}

int cache_open_temporary(const struct cache *cache, char name[CACHE_TEMPORARY_NAME_SIZE])
{
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        cache_temporary_name(name);
        int descriptor =
            openat(cache->temporary, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (descriptor < 0 && errno == EEXIST) continue;
        if (descriptor >= 0) file_lock(descriptor, F_WRLCK, 0, 0);
        return descriptor;
    }
    return -1;
}

static int replace(const struct cache *cache, const char *temporary, int directory,
                   const char *name)
{
    if (linkat(cache->temporary, temporary, directory, temporary, 0) < 0) return -1;
    if (renameat(directory, temporary, directory, name) == 0) return 0;
    /* Something odd may have its name. */
    cache_remove_entry(directory, name);
    if (renameat(directory, temporary, directory, name) == 0) return 0;
    int number = errno;
    unlinkat(directory, temporary, 0);
    errno = number;
    return -1;
}

int cache_place_temporary(const struct cache *cache, const char *temporary, int directory,
                          const char *name)
{
    if (linkat(cache->temporary, temporary, directory, name, 0) < 0 &&
        (errno != EEXIST || replace(cache, temporary, directory, name) < 0))
        return -1;
    unlinkat(cache->temporary, temporary, 0);
    return 0;
}

static void clean_entry(void *context, int directory, const char *name)
{
    struct stat status;
    (void)context;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
        llabs((long long)time(NULL) - status.st_ctime) < LEFT_BEHIND_SECONDS)
        return;
    if (S_ISREG(status.st_mode)) {
        cleanup_close int descriptor =
            openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (descriptor >= 0 && file_is_locked(descriptor, 0, 0)) return;
    }
    cache_remove_entry(directory, name);
}

/* The directory of a layer, unless it has its name. */
static void clean_layer(void *context, int directory, const char *name)
{
    struct digest digest;
    if (!cache_digest_of_name(name, &digest)) clean_entry(context, directory, name);
}

void cache_clean_temporary(const struct cache *cache)
{
    cache_each_entry(cache->temporary, clean_entry, NULL);
    cache_each_entry(cache->layers, clean_layer, NULL);
}

static int write_whole(const struct cache *cache, int directory, const char *name, const void *data,
                       size_t length)
{
    char temporary[CACHE_TEMPORARY_NAME_SIZE];
    cleanup_close int descriptor = cache_open_temporary(cache, temporary);
    if (descriptor < 0) return -1;
    if (write_fully(descriptor, data, length) == 0 &&
        cache_place_temporary(cache, temporary, directory, name) == 0)
        return 0;
    int number = errno;
    unlinkat(cache->temporary, temporary, 0);
    errno = number;
    return -1;
}

int cache_write_file(struct cache *cache, int directory, const char *name, const char *what,
                     const void *data, size_t length, struct error **error)
{
    if (!room_take_now(cache->room, length))
        return error_set(error, ERROR_SYSTEM, "there is no room for %s in cache directory '%s'",
                         what, cache->directory);
    if (write_whole(cache, directory, name, data, length) == 0) {
        room_stored(cache->room, length);
        return 0;
    }
    int number = errno;
    room_give_back(cache->room, length);
    return error_set_errno(error, number, "write %s to cache directory '%s'", what,
                           cache->directory);
}
