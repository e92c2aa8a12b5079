#include "snapshotter/snapshot_directories-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "snapshotter/tree_removal-internal.h"

#define SNAPSHOTS "snapshots"
#define REMOVED   "removed-" /* what was removed is called so until it is taken apart */

struct snapshot_directories {
    char *path;
    int descriptor;
    pthread_t remover;
    bool remover_runs;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t asked, done; /* how often something was removed, and up to which it was taken apart */
};

/* An id as a directory's name. */
struct id_name {
    char text[24];
};

static bool was_removed(const char *name)
{
    return strncmp(name, REMOVED, sizeof REMOVED - 1) == 0;
}

static struct id_name name_of(int64_t id)
{
    struct id_name name;
    snprintf(name.text, sizeof name.text, "%" PRId64, id);
    return name;
}

static void take_apart(struct snapshot_directories *directories)
{
    DIR *entries = opendir(directories->path);
    if (!entries) {
        log_warning("read '%s': %s", directories->path, strerror(errno));
        return;
    }
    const struct dirent *entry;
    while (!atomic_load(&directories->stop) && (entry = readdir(entries)))
        if (was_removed(entry->d_name))
            tree_removal_run(directories->descriptor, entry->d_name, directories->path,
                             &directories->stop);
    closedir(entries);
}

static void *run_remover(void *argument)
{
    struct snapshot_directories *directories = argument;
    pthread_mutex_lock(&directories->lock);
    while (!atomic_load(&directories->stop)) {
        if (directories->done == directories->asked) {
            pthread_cond_wait(&directories->changed, &directories->lock);
            continue;
        }
        uint64_t up_to = directories->asked;
        pthread_mutex_unlock(&directories->lock);
        take_apart(directories);
        pthread_mutex_lock(&directories->lock);
        directories->done = up_to;
        pthread_cond_broadcast(&directories->changed);
    }
    pthread_mutex_unlock(&directories->lock);
    return NULL;
}

static void wake_remover(struct snapshot_directories *directories)
{
    pthread_mutex_lock(&directories->lock);
    directories->asked++;
    pthread_cond_broadcast(&directories->changed);
    pthread_mutex_unlock(&directories->lock);
}

bool snapshot_directories_have_any(const char *root)
{
    cleanup_free char *path = format_text("%s/" SNAPSHOTS, root);
    DIR *entries = path ? opendir(path) : NULL;
    const struct dirent *entry;
    bool found = false;
    while (entries && !found && (entry = readdir(entries)))
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (entries) closedir(entries);
    return found;
}

static int open_directory(struct snapshot_directories *directories, const char *root,
                          struct error **error)
{
    directories->path = format_text("%s/" SNAPSHOTS, root);
    if (!directories->path) return error_set_memory(error);
    if (directory_make(directories->path, 0700, error) < 0) return -1;
    directories->descriptor =
        open(directories->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directories->descriptor < 0)
        return error_set_errno(error, errno, "open directory '%s'", directories->path);
    return 0;
}

int snapshot_directories_open(struct snapshot_directories **ret, const char *root,
                              struct error **error)
{
    struct snapshot_directories *directories = calloc(1, sizeof *directories);
    if (!directories) return error_set_memory(error);
    directories->descriptor = -1;
    pthread_mutex_init(&directories->lock, NULL);
    pthread_cond_init(&directories->changed, NULL);
    directories->asked = 1; /* what the last process has left */
    if (open_directory(directories, root, error) < 0 ||
        thread_start(&directories->remover, "remover", run_remover, directories, error) < 0) {
        snapshot_directories_close(directories);
        return -1;
    }
    directories->remover_runs = true;
    *ret = directories;
    return 0;
}

void snapshot_directories_close(struct snapshot_directories *directories)
{
    if (!directories) return;
    pthread_mutex_lock(&directories->lock);
    atomic_store(&directories->stop, true);
    pthread_cond_broadcast(&directories->changed);
    pthread_mutex_unlock(&directories->lock);
    if (directories->remover_runs) pthread_join(directories->remover, NULL);
    if (directories->descriptor >= 0) close(directories->descriptor);
    pthread_cond_destroy(&directories->changed);
    pthread_mutex_destroy(&directories->lock);
    free(directories->path);
    free(directories);
}

const char *snapshot_directories_all(const struct snapshot_directories *directories)
{
    return directories->path;
}

char *snapshot_directories_fs(const struct snapshot_directories *directories, int64_t id)
{
    return format_text("%s/%" PRId64 "/fs", directories->path, id);
}

char *snapshot_directories_work(const struct snapshot_directories *directories, int64_t id)
{
    return format_text("%s/%" PRId64 "/work", directories->path, id);
}

/* 0 also where there is nothing of that name. */
static int put_away(struct snapshot_directories *directories, const char *name,
                    struct error **error)
{
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return error_set_errno(error, errno, "getrandom");
    char fresh[sizeof REMOVED + 16];
    snprintf(fresh, sizeof fresh, REMOVED "%016" PRIx64, number);
    /* Within one directory: see tree_removal_run(). */
    if (renameat2(directories->descriptor, name, directories->descriptor, fresh, RENAME_NOREPLACE) <
        0) {
        if (errno == ENOENT) return 0;
        return error_set_errno(error, errno, "remove '%s/%s'", directories->path, name);
    }
    wake_remover(directories);
    return 0;
}

int snapshot_directories_remove(struct snapshot_directories *directories, int64_t id,
                                struct error **error)
{
    const struct id_name name = name_of(id);
    return put_away(directories, name.text, error);
}

/* Of the uppermost directory overlayfs shows the mode. As with containerd's own snapshotter it is
 * not that of the one below, which may shut out whom a container runs as. */
enum { ROOT_MODE = 0755 };

static int make_in(int parent, bool with_work, const struct stat *like)
{
    if (mkdirat(parent, "fs", 0700) < 0) return -1;
    if (fchownat(parent, "fs", like->st_uid, like->st_gid, AT_SYMLINK_NOFOLLOW) < 0) return -1;
    if (fchmodat(parent, "fs", ROOT_MODE, 0) < 0) return -1;
    return with_work ? mkdirat(parent, "work", 0711) : 0;
}

static int make_all(struct snapshot_directories *directories, const char *name, bool with_work,
                    const struct stat *like)
{
    if (mkdirat(directories->descriptor, name, 0700) < 0) return -1;
    cleanup_close int made =
        openat(directories->descriptor, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return made < 0 ? -1 : make_in(made, with_work, like);
}

int snapshot_directories_make(struct snapshot_directories *directories, int64_t id, bool with_work,
                              const struct stat *like, struct error **error)
{
    const struct id_name name = name_of(id);
    int result = make_all(directories, name.text, with_work, like);
    if (result < 0 && errno == EEXIST) {
        if (put_away(directories, name.text, error) < 0) return -1;
        result = make_all(directories, name.text, with_work, like);
    }
    if (result == 0) return 0;
    error_set_errno(error, errno, "make directory '%s/%s'", directories->path, name.text);
    put_away(directories, name.text, NULL);
    return -1;
}

/* 0: no directory of ours has such a name. */
static int64_t id_of(const char *name)
{
    char *end;
    errno = 0;
    long long id = strtoll(name, &end, 10);
    if (errno || *end || id <= 0) return 0;
    const struct id_name exact = name_of(id);
    return strcmp(exact.text, name) == 0 ? id : 0;
}

int snapshot_directories_keep(struct snapshot_directories *directories,
                              int (*wanted)(void *context, int64_t id, struct error **error),
                              void *context, struct error **error)
{
    DIR *entries = opendir(directories->path);
    if (!entries) return error_set_errno(error, errno, "read '%s'", directories->path);
    int result = 0;
    const struct dirent *entry;
    while (result == 0 && (entry = readdir(entries))) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || was_removed(name)) continue;
        int64_t id = id_of(name);
        int keep = id ? wanted(context, id, error) : 0;
        if (keep == 0)
            result = put_away(directories, name, error);
        else if (keep < 0)
            result = -1;
    }
    closedir(entries);
    return result;
}

void snapshot_directories_settle(struct snapshot_directories *directories)
{
    pthread_mutex_lock(&directories->lock);
    /* What could not be removed is tried again. */
    uint64_t wanted = ++directories->asked;
    pthread_cond_broadcast(&directories->changed);
    while (directories->done < wanted && !atomic_load(&directories->stop))
        pthread_cond_wait(&directories->changed, &directories->lock);
    pthread_mutex_unlock(&directories->lock);
}
