#include "snapshotter/mapped_views-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/user_namespace-internal.h"

struct mapped_views {
    char *directory;
    pthread_mutex_t lock; /* of all that is mounted there */
};

int mapped_views_open(struct mapped_views **ret, const char *root, struct error **error)
{
    struct mapped_views *views = calloc(1, sizeof *views);
    if (!views) return error_set_memory(error);
    pthread_mutex_init(&views->lock, NULL);
    views->directory = format_text("%s/mapped", root);
    if (!views->directory) error_set_memory(error);
    if (!views->directory || directory_make(views->directory, 0700, error) < 0) {
        mapped_views_close(views);
        return -1;
    }
    *ret = views;
    return 0;
}

void mapped_views_close(struct mapped_views *views)
{
    if (!views) return;
    pthread_mutex_destroy(&views->lock);
    free(views->directory);
    free(views);
}

/* ---- showing ---- */

/* What a path shows, by what the kernel knows: nobody who serves it is asked. */
static int look(const char *path, struct statx *ret, struct error **error)
{
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_INO,
              ret) < 0)
        return error_set_errno(error, errno, "stat '%s'", path);
    return 0;
}

static bool is_mounted(const struct statx *seen)
{
    return (seen->stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) &&
           (seen->stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static bool is_same(const struct statx *left, const struct statx *right)
{
    return left->stx_dev_major == right->stx_dev_major &&
           left->stx_dev_minor == right->stx_dev_minor && left->stx_ino == right->stx_ino;
}

/* It is private, so that what is mounted in `source` later is not mounted in it as well. */
static int map_tree(int tree, const char *source, const char *users, const char *groups,
                    struct error **error)
{
    cleanup_close int namespace = -1;
    if (user_namespace_open(users, groups, &namespace, error) < 0) return -1;
    struct mount_attr attributes = { .attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY,
                                     .propagation = MS_PRIVATE,
                                     .userns_fd = (uint64_t) namespace };
    if (mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return error_set_errno(error, errno, "map the owners of '%s'", source);
    return error_set(error, ERROR_UNSUPPORTED,
                     "this kernel cannot map the owners of files in '%s', of the kind that it is",
                     source);
}

static int mount_mapped(const char *source, const char *path, const char *users, const char *groups,
                        struct error **error)
{
    cleanup_close int tree = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0) return error_set_errno(error, errno, "open tree '%s'", source);
    if (map_tree(tree, source, users, groups, error) < 0) return -1;
    if (move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return error_set_errno(error, errno, "mount '%s'", path);
    return 0;
}

/* Whatever is mounted there: what is in use of it goes on. */
static void unmount_all(const char *path)
{
    while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        continue;
}

static int make_directory(const char *path, struct error **error)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_set_errno(error, errno, "make '%s'", path);
    return 0;
}

static int show(const char *source, const char *path, const char *users, const char *groups,
                struct error **error)
{
    struct statx wanted, there;
    if (make_directory(path, error) < 0 || look(source, &wanted, error) < 0 ||
        look(path, &there, error) < 0)
        return -1;
    if (is_mounted(&there)) {
        if (is_same(&wanted, &there)) return 0;
        /* The image was mounted anew, after holder and server had died. */
        unmount_all(path);
    }
    return mount_mapped(source, path, users, groups, error);
}

char *mapped_views_show(struct mapped_views *views, int64_t id, const char *name,
                        const char *source, const char *users, const char *groups,
                        struct error **error)
{
    cleanup_free char *directory = format_text("%s/%" PRId64, views->directory, id);
    cleanup_free char *path = directory ? format_text("%s/%s", directory, name) : NULL;
    if (!path) {
        error_set_memory(error);
        return NULL;
    }
    pthread_mutex_lock(&views->lock);
    int result = make_directory(directory, error);
    if (result == 0) result = show(source, path, users, groups, error);
    pthread_mutex_unlock(&views->lock);
    return result == 0 ? take_pointer(&path) : NULL;
}

/* ---- the end ---- */

static void remove_empty(const char *path)
{
    if (rmdir(path) < 0 && errno != ENOENT) log_warning("remove '%s': %s", path, strerror(errno));
}

/* Directories leave only when they are empty: what is seen through a mount is never touched. */
static void remove_all(const char *directory)
{
    DIR *entries = opendir(directory);
    const struct dirent *entry;
    if (!entries) return;
    while ((entry = readdir(entries))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        cleanup_free char *path = format_text("%s/%s", directory, entry->d_name);
        if (!path) continue;
        unmount_all(path);
        remove_empty(path);
    }
    closedir(entries);
    remove_empty(directory);
}

void mapped_views_remove(struct mapped_views *views, int64_t id)
{
    cleanup_free char *directory = format_text("%s/%" PRId64, views->directory, id);
    if (!directory) return;
    pthread_mutex_lock(&views->lock);
    remove_all(directory);
    pthread_mutex_unlock(&views->lock);
}

int mapped_views_keep(struct mapped_views *views,
                      int (*wanted)(void *context, int64_t id, struct error **error), void *context,
                      struct error **error)
{
    int keep = 1;
    const struct dirent *entry;
    DIR *entries = opendir(views->directory);
    if (!entries) return error_set_errno(error, errno, "read '%s'", views->directory);
    while (keep >= 0 && (entry = readdir(entries))) {
        char *end;
        errno = 0;
        long long id = strtoll(entry->d_name, &end, 10);
        if (errno || *end || id <= 0) continue;
        keep = wanted(context, id, error);
        if (keep == 0) mapped_views_remove(views, id);
    }
    closedir(entries);
    return keep < 0 ? -1 : 0;
}
