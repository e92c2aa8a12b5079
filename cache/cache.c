/*
 * The directory itself. All access goes through descriptors of the directories
 * opened here, so that what was checked is what is used.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/cache-internal.h"

/* A temporary file this old was left by a process that died. */
#define TEMPORARY_SECONDS_MAX (24 * 60 * 60)

static int check_owner(const char *path, const struct stat *status, struct error **error)
{
    if (status->st_uid != geteuid()) {
        error_set(error, ERROR_DENIED, "cache directory '%s' belongs to user %u, not to %u", path,
                  (unsigned)status->st_uid, (unsigned)geteuid());
        return error_hint(error, "name a directory of your own");
    }
    if (status->st_mode & (S_IWGRP | S_IWOTH)) {
        error_set(error, ERROR_DENIED, "others can write to cache directory '%s' (mode %04o)", path,
                  (unsigned)status->st_mode & 07777);
        return error_hint(error, "chmod go-w '%s' if nobody else has used it", path);
    }
    return 0;
}

static int check_directory(int descriptor, const char *path, struct error **error)
{
    struct stat status;
    if (fstat(descriptor, &status) < 0)
        return error_set_errno(error, errno, "look at cache directory '%s'", path);
    return check_owner(path, &status, error);
}

int cache_open_directory(const struct cache *cache, int parent, const char *name,
                         struct error **error)
{
    cleanup_free char *path = format_text("%s/.../%s", cache->directory, name);
    const char *shown = path ? path : name;
    if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
        return error_set_errno(error, errno, "make cache directory '%s'", shown);
    cleanup_close int descriptor =
        openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) return error_set_errno(error, errno, "open cache directory '%s'", shown);
    if (check_directory(descriptor, shown, error) < 0) return -1;
    return take_descriptor(&descriptor);
}

static int open_root(struct cache *cache, struct error **error)
{
    if (directory_make(cache->directory, 0700, error) < 0) return -1;
    cache->root = open(cache->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cache->root < 0)
        return error_set_errno(error, errno, "open cache directory '%s'", cache->directory);
    return check_directory(cache->root, cache->directory, error);
}

static void remove_old_temporary_files(const struct cache *cache)
{
    int descriptor = openat(cache->temporary, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!directory) {
        if (descriptor >= 0) close(descriptor);
        return;
    }
    time_t now = time(NULL);
    struct dirent *entry;
    struct stat status;
    while ((entry = readdir(directory)))
        if (fstatat(cache->temporary, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            !S_ISDIR(status.st_mode) && now - status.st_mtime > TEMPORARY_SECONDS_MAX)
            unlinkat(cache->temporary, entry->d_name, 0);
    closedir(directory);
}

static int open_parts(struct cache *cache, struct error **error)
{
    if (open_root(cache, error) < 0) return -1;
    if ((cache->blobs = cache_open_directory(cache, cache->root, "blobs", error)) < 0) return -1;
    if ((cache->names = cache_open_directory(cache, cache->root, "names", error)) < 0) return -1;
    if ((cache->layers = cache_open_directory(cache, cache->root, "layers", error)) < 0) return -1;
    cache->temporary = cache_open_directory(cache, cache->root, "temporary", error);
    if (cache->temporary < 0) return -1;
    remove_old_temporary_files(cache);
    return ring_new(&cache->ring, error);
}

int cache_open(struct cache **ret, const char *directory, struct error **error)
{
    struct cache *cache = malloc(sizeof *cache);
    if (!cache) return error_set_memory(error);
    *cache = (struct cache){ .root = -1, .blobs = -1, .names = -1, .layers = -1, .temporary = -1 };
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
    ring_free(cache->ring);
    int descriptors[] = { cache->root, cache->blobs, cache->names, cache->layers,
                          cache->temporary };
    for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++)
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

int cache_open_file(int directory, const char *name, int flags, struct stat *ret_status)
{
    /* O_NONBLOCK: a FIFO put in a file's place must not hold anybody up. */
    cleanup_close int descriptor =
        openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        if (errno == ELOOP || errno == ENXIO || errno == EISDIR) {
            unlinkat(directory, name, 0);
            errno = ENOENT;
        }
        return -1;
    }
    if (fstat(descriptor, ret_status) < 0) return -1;
    if (!S_ISREG(ret_status->st_mode) || ret_status->st_uid != geteuid()) {
        unlinkat(directory, name, 0);
        errno = ENOENT;
        return -1;
    }
    return take_descriptor(&descriptor);
}

int cache_open_temporary(const struct cache *cache, char name[CACHE_TEMPORARY_NAME_SIZE])
{
    static _Atomic unsigned long counter;
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        snprintf(name, CACHE_TEMPORARY_NAME_SIZE, "%ld.%lu", (long)getpid(),
                 atomic_fetch_add(&counter, 1));
        int descriptor =
            openat(cache->temporary, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (descriptor >= 0 || errno != EEXIST) return descriptor;
    }
    return -1;
}

int cache_read_file(int directory, const char *name, const char *what, size_t limit,
                    struct buffer *ret, struct error **error)
{
    struct stat status;
    cleanup_close int descriptor = cache_open_file(directory, name, O_RDONLY, &status);
    if (descriptor < 0) {
        if (errno == ENOENT)
            return error_set(error, ERROR_NOT_FOUND, "%s is not in the cache", what);
        return error_set_errno(error, errno, "open %s in the cache", what);
    }
    size_t length = (size_t)status.st_size;
    if (status.st_size < 0 || (uint64_t)status.st_size > limit)
        return error_set(error, ERROR_NOT_FOUND, "%s in the cache is larger than %zu bytes", what,
                         limit);
    if (buffer_reserve(ret, length) < 0) return error_set_memory(error);
    ssize_t count = read_fully_at(descriptor, ret->data + ret->length, length, 0);
    if (count < 0) return error_set_errno(error, errno, "read %s in the cache", what);
    ret->length += (size_t)count;
    return 0;
}

int cache_write_file(const struct cache *cache, int directory, const char *name, const char *what,
                     const void *data, size_t length, struct error **error)
{
    char temporary[CACHE_TEMPORARY_NAME_SIZE];
    cleanup_close int descriptor = cache_open_temporary(cache, temporary);
    if (descriptor < 0)
        return error_set_errno(error, errno, "create a file in cache directory '%s'",
                               cache->directory);
    if (write_fully(descriptor, data, length) == 0 &&
        renameat(cache->temporary, temporary, directory, name) == 0)
        return 0;
    int number = errno;
    unlinkat(cache->temporary, temporary, 0);
    return error_set_errno(error, number, "write %s to cache directory '%s'", what,
                           cache->directory);
}
