#include "snapshotter/disk_usage-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

/* Each level keeps a descriptor. */
#define DEPTH_MAX 1000

struct identity {
    dev_t device;
    ino_t inode;
};

struct count {
    const char *path;
    struct snapshot_usage usage;
    void *linked; /* tsearch(3): what was counted under another name */
    DIR *levels[DEPTH_MAX];
    size_t depth;
};

static int compare_identities(const void *left_entry, const void *right_entry)
{
    const struct identity *left = left_entry, *right = right_entry;
    if (left->device != right->device) return left->device < right->device ? -1 : 1;
    if (left->inode != right->inode) return left->inode < right->inode ? -1 : 1;
    return 0;
}

/* 1: it was counted before; 0; -1: out of memory. */
static int is_known(struct count *count, const struct stat *status)
{
    struct identity *identity = malloc(sizeof *identity);
    if (!identity) return -1;
    *identity = (struct identity){ status->st_dev, status->st_ino };
    struct identity **node = tsearch(identity, &count->linked, compare_identities);
    if (node && *node == identity) return 0;
    free(identity);
    return node ? 1 : -1;
}

static int add(struct count *count, const struct stat *status)
{
    if (!S_ISDIR(status->st_mode) && status->st_nlink > 1) {
        int known = is_known(count, status);
        if (known) return known < 0 ? -1 : 0;
    }
    count->usage.inodes++;
    count->usage.size += (uint64_t)status->st_blocks * 512;
    return 0;
}

static int enter(struct count *count, int parent, const char *name, struct error **error)
{
    if (count->depth == DEPTH_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "directories in '%s' are nested too deep",
                         count->path);
    int descriptor = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0 && errno == ENOENT && count->depth) return 0;
    DIR *entries = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!entries) {
        int number = errno;
        if (descriptor >= 0) close(descriptor);
        return error_set_errno(error, number, "read directory '%s' in '%s'", name, count->path);
    }
    count->levels[count->depth++] = entries;
    return 0;
}

static int visit(struct count *count, const char *name, struct error **error)
{
    struct stat status;
    int directory = dirfd(count->levels[count->depth - 1]);
    if (strcmp(name, "..") == 0) return 0;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT
                   ? 0
                   : error_set_errno(error, errno, "stat '%s' in '%s'", name, count->path);
    /* A directory counts when it is read itself, by its ".". */
    bool is_itself = strcmp(name, ".") == 0;
    if (S_ISDIR(status.st_mode) && !is_itself) return enter(count, directory, name, error);
    return add(count, &status) < 0 ? error_set_memory(error) : 0;
}

static int walk(struct count *count, struct error **error)
{
    while (count->depth) {
        DIR *entries = count->levels[count->depth - 1];
        errno = 0;
        const struct dirent *entry = readdir(entries);
        if (!entry && errno) return error_set_errno(error, errno, "read '%s'", count->path);
        if (!entry) {
            closedir(entries);
            count->depth--;
        } else if (visit(count, entry->d_name, error) < 0) {
            return -1;
        }
    }
    return 0;
}

int disk_usage_of(const char *path, struct snapshot_usage *ret, struct error **error)
{
    cleanup_free struct count *count = calloc(1, sizeof *count);
    if (!count) return error_set_memory(error);
    count->path = path;
    int result = enter(count, AT_FDCWD, path, error);
    if (result == 0) result = walk(count, error);
    while (count->depth)
        closedir(count->levels[--count->depth]);
    tdestroy(count->linked, free);
    if (result == 0) *ret = count->usage;
    return result;
}
