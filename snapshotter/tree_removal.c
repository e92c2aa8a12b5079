#include "snapshotter/tree_removal-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

/* Directories that are not empty move up, beside the one that they were in: so there is neither a
 * path nor a recursion that grows with the depth. */

struct removal {
    int top;
    const char *path;
    const atomic_bool *stop;
    bool advanced; /* something went, or moved up */
    int number;    /* errno of the last failure */
    char failed[NAME_MAX + 1];
};

static void note_failure(struct removal *removal, const char *name)
{
    removal->number = errno;
    snprintf(removal->failed, sizeof removal->failed, "%s", name);
}

static bool move_up(struct removal *removal, int directory, const char *name)
{
    uint64_t number;
    char fresh[32];
    if (getrandom(&number, sizeof number, 0) != sizeof number) return false;
    snprintf(fresh, sizeof fresh, "%016llx", (unsigned long long)number);
    return renameat2(directory, name, removal->top, fresh, RENAME_NOREPLACE) == 0;
}

static void remove_entry(struct removal *removal, int directory, const char *name)
{
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) {
        removal->advanced = true;
        return;
    }
    if (errno == EISDIR &&
        (unlinkat(directory, name, AT_REMOVEDIR) == 0 ||
         (errno == ENOTEMPTY && directory != removal->top && move_up(removal, directory, name)))) {
        removal->advanced = true;
        return;
    }
    note_failure(removal, name);
}

static void remove_entries(struct removal *removal, int directory, DIR *entries)
{
    struct dirent *entry;
    while (!atomic_load(removal->stop) && (entry = readdir(entries))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove_entry(removal, directory, entry->d_name);
    }
}

static DIR *open_entries(int parent, const char *name)
{
    int descriptor = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = descriptor < 0 ? NULL : fdopendir(descriptor);
    if (!entries && descriptor >= 0) close(descriptor);
    return entries;
}

static void remove_from_top(struct removal *removal, const char *name)
{
    DIR *entries = open_entries(removal->top, name);
    if (entries) {
        remove_entries(removal, dirfd(entries), entries);
        closedir(entries);
    }
    remove_entry(removal, removal->top, name);
}

void tree_removal_empty(int descriptor, const char *path, const atomic_bool *stop)
{
    struct removal removal = { .top = descriptor, .path = path, .stop = stop };
    do {
        DIR *entries = open_entries(descriptor, ".");
        if (!entries) {
            log_warning("remove what is in '%s': %s", path, strerror(errno));
            return;
        }
        removal.advanced = false;
        removal.number = 0;
        struct dirent *entry;
        while (!atomic_load(stop) && (entry = readdir(entries))) {
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                remove_from_top(&removal, entry->d_name);
        }
        closedir(entries);
    } while (removal.advanced && !atomic_load(stop));
    if (removal.number && !atomic_load(stop))
        log_warning("remove '%s' in '%s': %s; it is tried again later", removal.failed, path,
                    strerror(removal.number));
}
