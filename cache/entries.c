/* What is in the directories: our files, and the odd things that may have taken their place. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/cache-internal.h"

/* A layer's files are one level down; odd things may go a little deeper. */
#define DEPTH_MAX 8u

/* A last use is noted again when it is older than this. */
#define TOUCH_SECONDS 60

void cache_each_entry(int directory, cache_entry_seen *seen, void *context)
{
    int descriptor = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!stream) {
        if (descriptor >= 0) close(descriptor);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(stream)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            seen(context, directory, entry->d_name);
    closedir(stream);
}

static int open_as_directory(int directory, const char *name)
{
    return openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- removing ---- */

static void remove_entry(void *context, int directory, const char *name)
{
    const unsigned *depth = context;
    unsigned below = *depth + 1;
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT || below > DEPTH_MAX) return;
    cleanup_close int inside = open_as_directory(directory, name);
    if (inside < 0) return;
    cache_each_entry(inside, remove_entry, &below);
    unlinkat(directory, name, AT_REMOVEDIR);
}

void cache_remove_entry(int directory, const char *name)
{
    unsigned depth = 0;
    remove_entry(&depth, directory, name);
}

/* ---- measuring ---- */

struct measured {
    uint64_t size;
    unsigned depth;
};

static void measure_entry(void *context, int directory, const char *name)
{
    struct measured *measured = context;
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0) return;
    measured->size += (uint64_t)status.st_blocks * 512;
    if (!S_ISDIR(status.st_mode) || measured->depth >= DEPTH_MAX) return;
    cleanup_close int inside = open_as_directory(directory, name);
    if (inside < 0) return;
    measured->depth++;
    cache_each_entry(inside, measure_entry, measured);
    measured->depth--;
}

uint64_t cache_entry_size(int directory, const char *name)
{
    struct measured measured = { 0 };
    measure_entry(&measured, directory, name);
    return measured.size;
}

/* ---- opening ---- */

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

int cache_open_directory(const struct cache *cache, int parent, const char *name,
                         struct error **error)
{
    cleanup_free char *path = name ? format_text("%s/%s", cache->directory, name) : NULL;
    const char *shown = path ? path : cache->directory;
    struct stat status;
    cleanup_close int descriptor = -1;
    if (name) {
        descriptor = open_as_directory(parent, name);
        if (descriptor < 0 && (errno == ENOTDIR || errno == ELOOP))
            cache_remove_entry(parent, name);
        if (descriptor < 0 && mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
            return error_set_errno(error, errno, "make cache directory '%s'", shown);
        if (descriptor < 0) descriptor = open_as_directory(parent, name);
    } else {
        descriptor = open(cache->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (descriptor < 0) {
        int number = errno;
        error_set_errno(error, number, "open cache directory '%s'", shown);
        if (number == EACCES) error_hint(error, "chmod 700 '%s', if it is yours", shown);
        return -1;
    }
    if (fstat(descriptor, &status) < 0)
        return error_set_errno(error, errno, "look at cache directory '%s'", shown);
    if (check_owner(shown, &status, error) < 0) return -1;
    return take_descriptor(&descriptor);
}

int cache_open_file(int directory, const char *name, int flags, struct stat *ret_status)
{
    /* O_NONBLOCK: a FIFO put in a file's place must not hold anybody up. */
    cleanup_close int descriptor =
        openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (descriptor < 0) {
        if (errno == ELOOP || errno == ENXIO || errno == EISDIR || errno == EACCES) {
            cache_remove_entry(directory, name);
            errno = ENOENT;
        }
        return -1;
    }
    if (fstat(descriptor, ret_status) < 0) return -1;
    if (!S_ISREG(ret_status->st_mode) || ret_status->st_uid != geteuid()) {
        cache_remove_entry(directory, name);
        errno = ENOENT;
        return -1;
    }
    return take_descriptor(&descriptor);
}

/* ---- whole files ---- */

uint32_t cache_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (uint32_t)now.tv_sec;
}

void cache_touch(int descriptor, const struct stat *status)
{
    time_t age = (time_t)cache_now() - status->st_mtime;
    /* The time of change, because that of access is often not kept. Where it cannot be set, the
     * file goes a little early. */
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } };
    if (age < 0 || age >= TOUCH_SECONDS) futimens(descriptor, times);
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
    if (length == 0) return 0;
    if (buffer_reserve(ret, length) < 0) return error_set_memory(error);
    ssize_t count = read_fully_at(descriptor, ret->data + ret->length, length, 0);
    if (count < 0) return error_set_errno(error, errno, "read %s in the cache", what);
    ret->length += (size_t)count;
    cache_touch(descriptor, &status);
    return 0;
}

bool cache_digest_of_name(const char *name, struct digest *ret)
{
    char text[DIGEST_TEXT_SIZE] = "sha256:";
    size_t length = strlen(name);
    if (length != DIGEST_HEX_SIZE - 1) return false;
    memcpy(text + 7, name, length + 1);
    return digest_parse(ret, text, NULL) == 0;
}
