#include "snapshotter/tree_removal-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

/* Goes down into a directory that is not empty, and up again by `..` when all in it was met. So
 * there is neither a path nor a recursion that grows with the depth, and one directory is open at a
 * time. Who still has the tree could move directories about in it: a level is known by its inode,
 * so that the way up never leads out of the tree. */

struct level {
    ino_t inode;
    long resume; /* the place of the entry that we went down into */
};

struct removal {
    const atomic_bool *stop;
    struct level *levels;
    size_t depth, capacity;
    DIR *entries;  /* of levels[depth - 1] */
    ino_t left;    /* the directory that we came up from; 0: met again already */
    bool advanced; /* something went */
    int number;    /* errno of this pass's first failure; what is around it fails, too */
    char failed[NAME_MAX + 1];
};

static void note_failure(struct removal *removal, const char *name)
{
    if (removal->number) return;
    removal->number = errno;
    snprintf(removal->failed, sizeof removal->failed, "%s", name);
}

static int open_directory(int from, const char *name)
{
    const struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                                  .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS };
    return (int)syscall(SYS_openat2, from, name, &how, sizeof how);
}

/* Makes the directory that is open the one that is read. Takes the descriptor. */
static int read_from(struct removal *removal, int descriptor)
{
    DIR *entries = fdopendir(descriptor);
    if (!entries) {
        close(descriptor);
        return -1;
    }
    if (removal->entries) closedir(removal->entries);
    removal->entries = entries;
    return 0;
}

static int reserve_level(struct removal *removal)
{
    if (removal->depth < removal->capacity) return 0;
    size_t capacity = removal->capacity ? removal->capacity * 2 : 32;
    struct level *levels = reallocarray(removal->levels, capacity, sizeof *levels);
    if (!levels) return -1;
    removal->levels = levels;
    removal->capacity = capacity;
    return 0;
}

static int go_down(struct removal *removal, int from, const char *name)
{
    struct stat status;
    if (reserve_level(removal) < 0) return -1;
    cleanup_close int descriptor = open_directory(from, name);
    if (descriptor < 0 || fstat(descriptor, &status) < 0 ||
        read_from(removal, take_descriptor(&descriptor)) < 0)
        return -1;
    removal->levels[removal->depth++] = (struct level){ .inode = status.st_ino };
    removal->left = 0;
    return 0;
}

static int go_up(struct removal *removal)
{
    const struct level *above = &removal->levels[removal->depth - 2];
    struct stat status;
    cleanup_close int descriptor = open_directory(dirfd(removal->entries), "..");
    if (descriptor < 0 || fstat(descriptor, &status) < 0) return -1;
    if (status.st_ino != above->inode) {
        errno = EXDEV;
        return -1;
    }
    if (read_from(removal, take_descriptor(&descriptor)) < 0) return -1;
    seekdir(removal->entries, above->resume);
    removal->left = removal->levels[--removal->depth].inode;
    return 0;
}

/* Removed, or not there; not a directory that has something in it (ENOTEMPTY). */
static bool is_gone(int parent, const char *name)
{
    return unlinkat(parent, name, 0) == 0 || errno == ENOENT ||
           (errno == EISDIR && unlinkat(parent, name, AT_REMOVEDIR) == 0);
}

/* Of the directory that is read; it stays where it can neither be removed nor entered. */
static void remove_entry(struct removal *removal, const struct dirent *entry, long place)
{
    int directory = dirfd(removal->entries);
    if (is_gone(directory, entry->d_name)) {
        removal->advanced = true;
        return;
    }
    if (errno == ENOTEMPTY && entry->d_ino != removal->left) {
        removal->levels[removal->depth - 1].resume = place;
        if (go_down(removal, directory, entry->d_name) == 0) return;
    }
    note_failure(removal, entry->d_name);
}

/* Meets everything once, as long as nobody else changes it. */
static void pass_through(struct removal *removal)
{
    while (!atomic_load(removal->stop)) {
        long place = telldir(removal->entries);
        const struct dirent *entry = readdir(removal->entries);
        if (!entry) {
            if (removal->depth == 1) return;
            if (go_up(removal) == 0) continue;
            note_failure(removal, "..");
            return;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove_entry(removal, entry, place);
    }
}

void tree_removal_run(int parent, const char *name, const char *path, const atomic_bool *stop)
{
    struct removal removal = { .stop = stop, .advanced = true };
    while (!is_gone(parent, name) && !atomic_load(stop)) {
        if (errno != ENOTEMPTY || !removal.advanced) {
            note_failure(&removal, name);
            log_warning("remove '%s' of '%s/%s': %s; it is tried again later", removal.failed, path,
                        name, strerror(removal.number));
            break;
        }
        removal.advanced = false;
        removal.number = 0;
        if (go_down(&removal, parent, name) == 0)
            pass_through(&removal);
        else
            note_failure(&removal, name);
        if (removal.entries) closedir(removal.entries);
        removal.entries = NULL;
        removal.depth = 0;
    }
    free(removal.levels);
}
