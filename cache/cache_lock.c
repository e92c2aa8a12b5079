/* Locks that die with their process. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cache/cache-internal.h"

#define LOOK_AGAIN_MS 5u

bool file_lock(int descriptor, short type, uint64_t first, uint64_t count)
{
    struct flock range = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)first, .l_len = (off_t)count
    };
    return fcntl(descriptor, F_OFD_SETLK, &range) == 0;
}

bool file_is_locked(int descriptor, uint64_t first, uint64_t count)
{
    struct flock range = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)first, .l_len = (off_t)count
    };
    /* What cannot be known counts as locked: nothing is taken away then. */
    return fcntl(descriptor, F_OFD_GETLK, &range) < 0 || range.l_type != F_UNLCK;
}

bool cache_lock(struct cache *cache, enum cache_lock which, unsigned patience_ms)
{
    /* The file's lock is one for all threads of this process. */
    pthread_mutex_t *mutex = &cache->locks[which];
    for (unsigned waited = 0;; waited += LOOK_AGAIN_MS) {
        if (pthread_mutex_trylock(mutex) == 0) {
            if (file_lock(cache->lock, F_WRLCK, which, 1)) return true;
            pthread_mutex_unlock(mutex);
        }
        if (waited >= patience_ms) return false;
        usleep(LOOK_AGAIN_MS * 1000);
    }
}

void cache_unlock(struct cache *cache, enum cache_lock which)
{
    file_lock(cache->lock, F_UNLCK, which, 1);
    pthread_mutex_unlock(&cache->locks[which]);
}
