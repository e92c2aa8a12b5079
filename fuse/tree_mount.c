#include "fuse/tree_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/fusermount-internal.h"
#include "fuse/mount_table.h"

static int refuse_second_mount(const char *path, struct error **error)
{
    struct mount_entry entry;
    bool found;
    if (mount_table_find(path, &found, &entry, error) < 0) return -1;
    if (!found || !entry.ours) return 0;
    error_set(error, ERROR_INVALID, "mount on '%s': a sluice file system is there already", path);
    return error_hint(error, "unmount it first, with 'sluice umount %s' or 'umount -l %s'", path,
                      path);
}

/* The table of mounts is asked first: a mount that a dead server left answers everything with
 * ENOTCONN. */
char *tree_mount_resolve(const char *path, struct error **error)
{
    if (path[0] != '/') {
        error_set(error, ERROR_INVALID, "mount point '%s' is not an absolute path", path);
        return NULL;
    }
    if (refuse_second_mount(path, error) < 0) return NULL;
    cleanup_free char *resolved = realpath(path, NULL);
    if (!resolved) {
        int number = errno;
        error_set_errno(error, number, "mount point '%s'", path);
        if (number == ENOENT) error_hint(error, "make the directory first");
        if (number == ENOTCONN) error_hint(error, "a dead mount is there: 'umount -l %s'", path);
        return NULL;
    }
    if (refuse_second_mount(resolved, error) < 0) return NULL;
    struct stat status;
    if (stat(resolved, &status) < 0) {
        error_set_errno(error, errno, "mount point '%s'", path);
        return NULL;
    }
    if (!S_ISDIR(status.st_mode)) {
        error_set(error, ERROR_INVALID, "mount point '%s' is not a directory", path);
        return NULL;
    }
    return take_pointer(&resolved);
}

int tree_mount_note(struct tree_mount *ret, char **resolved, struct error **error)
{
    struct mount_entry entry;
    bool found;
    if (mount_table_find(*resolved, &found, &entry, error) < 0) {
        umount2(*resolved, MNT_DETACH | UMOUNT_NOFOLLOW);
        return -1;
    }
    if (!found || !entry.ours)
        return error_set(error, ERROR_SYSTEM, "mount on '%s': it was taken away at once",
                         *resolved);
    *ret = (struct tree_mount){ .device_major = entry.device_major,
                                .device_minor = entry.device_minor,
                                .mountpoint = take_pointer(resolved),
                                .attached = true };
    snprintf(ret->bdi, sizeof ret->bdi, "%u:%u", ret->device_major, ret->device_minor);
    return 0;
}

/* Somebody may have unmounted it, and mounted something else there. */
static bool is_still_there(const struct tree_mount *mount)
{
    struct mount_entry entry;
    bool found;
    cleanup_error struct error *error = NULL;
    if (mount_table_find(mount->mountpoint, &found, &entry, &error) < 0) {
        log_warning("unmount '%s': %s", mount->mountpoint, error_message(error));
        return false;
    }
    return found && entry.device_major == mount->device_major &&
           entry.device_minor == mount->device_minor;
}

void tree_mount_detach(struct tree_mount *mount)
{
    if (!mount->attached) return;
    mount->attached = false;
    if (!is_still_there(mount)) return;
    if (umount2(mount->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return;
    cleanup_error struct error *error = NULL;
    if (errno != EPERM)
        error_set_errno(&error, errno, "umount");
    else if (fusermount_detach(mount->mountpoint, true, &error) == 0)
        return;
    log_warning("unmount '%s': %s", mount->mountpoint, error_message(error));
}

void tree_mount_free(struct tree_mount *mount)
{
    tree_mount_detach(mount);
    free(mount->mountpoint);
    mount->mountpoint = NULL;
}

void tree_mount_set(const char *path, unsigned number)
{
    cleanup_close int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    char text[16];
    int length = snprintf(text, sizeof text, "%u", number);
    if (descriptor < 0 || write_fully(descriptor, text, (size_t)length) < 0)
        log_info("'%s' stays as the kernel sets it: %s", path, strerror(errno));
}

void tree_mount_set_readahead(const struct tree_mount *mount, unsigned kibibytes)
{
    char path[80];
    if (!mount->attached || !mount->bdi[0]) return;
    snprintf(path, sizeof path, TREE_MOUNT_BDI "/%s/read_ahead_kb", mount->bdi);
    tree_mount_set(path, kibibytes);
}
