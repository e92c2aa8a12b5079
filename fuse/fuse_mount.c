#include "fuse/fuse_mount.h"

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

/* The kernel starts with 128, which is eight requests for a chunk. */
#define READAHEAD_KIBIBYTES 1024u

static int refuse_second_mount(const char *path, struct error **error)
{
    struct mount_entry entry;
    bool found;
    if (mount_table_find(path, &found, &entry, error) < 0) return -1;
    if (!found || strcmp(entry.type, FUSE_MOUNT_TYPE) != 0) return 0;
    error_set(error, ERROR_INVALID, "mount on '%s': a sluice file system is there already", path);
    return error_hint(error, "unmount it first, with 'sluice umount %s' or 'umount -l %s'", path,
                      path);
}

/* The mount point's real path in fresh memory, once it is known that it can be one. The table of
 * mounts is asked first: a mount that a dead server left answers everything with ENOTCONN. */
static char *resolve_mountpoint(const char *path, struct error **error)
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

/* mount(2) itself. The connection's descriptor, or -1 with *ret_denied telling that only the
 * helper can do it. */
static int attach_directly(const char *mountpoint, const struct fuse_mount_options *options,
                           bool *ret_denied, struct error **error)
{
    *ret_denied = false;
    cleanup_close int descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (descriptor < 0) {
        *ret_denied = errno == EACCES || errno == EPERM;
        error_set_errno(error, errno, "open '/dev/fuse'");
        return error_hint(
            error, "load the kernel module (modprobe fuse), or give the container /dev/fuse");
    }
    char data[128];
    snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions%s",
             descriptor, geteuid(), getegid(),
             geteuid() == 0 || options->allow_other ? ",allow_other" : "");
    unsigned long flags =
        MS_RDONLY | (options->allow_suid ? 0 : MS_NOSUID) | (options->allow_devices ? 0 : MS_NODEV);
    if (mount(options->source, mountpoint, FUSE_MOUNT_TYPE, flags, data) == 0)
        return take_descriptor(&descriptor);
    int number = errno;
    *ret_denied = number == EPERM;
    error_set_errno(error, number, "mount on '%s'", mountpoint);
    if (number == EPERM) error_hint(error, "mounting needs CAP_SYS_ADMIN");
    if (number == ENODEV) error_hint(error, "the kernel has no FUSE: modprobe fuse");
    return -1;
}

/* The helper splits its options at commas that have no backslash before them. */
static char *escape_option(const char *value)
{
    char *escaped = malloc(2 * strlen(value) + 1);
    if (!escaped) return NULL;
    char *to = escaped;
    for (; *value; value++) {
        if (*value == ',' || *value == '\\') *to++ = '\\';
        *to++ = *value;
    }
    *to = 0;
    return escaped;
}

static int attach_by_helper(const char *mountpoint, const struct fuse_mount_options *options,
                            struct error **error)
{
    if (options->allow_suid || options->allow_devices)
        return error_set(error, ERROR_DENIED,
                         "mount on '%s': only root can allow set-user-ID programs or devices",
                         mountpoint);
    cleanup_free char *source = escape_option(options->source);
    if (!source) return error_set_memory(error);
    cleanup_free char *text =
        format_text("ro,nosuid,nodev,default_permissions%s,subtype=sluice,fsname=%s",
                    options->allow_other ? ",allow_other" : "", source);
    if (!text) return error_set_memory(error);
    int descriptor = fusermount_attach(mountpoint, text, error);
    if (descriptor < 0) error_prefix(error, "mount on '%s'", mountpoint);
    return descriptor;
}

static int attach(const char *mountpoint, const struct fuse_mount_options *options,
                  struct error **error)
{
    struct error *why = NULL;
    bool denied;
    int descriptor = attach_directly(mountpoint, options, &denied, &why);
    if (descriptor >= 0) return descriptor;
    if (!denied || geteuid() == 0) return error_move(error, why);
    error_free(why);
    return attach_by_helper(mountpoint, options, error);
}

int fuse_mount_attach(struct fuse_mount *ret, const char *mountpoint,
                      const struct fuse_mount_options *options, struct error **error)
{
    cleanup_free char *resolved = resolve_mountpoint(mountpoint, error);
    if (!resolved) return -1;
    cleanup_close int descriptor = attach(resolved, options, error);
    if (descriptor < 0) return -1;

    struct mount_entry entry;
    bool found;
    if (mount_table_find(resolved, &found, &entry, error) < 0) {
        umount2(resolved, MNT_DETACH | UMOUNT_NOFOLLOW);
        return -1;
    }
    if (!found || strcmp(entry.type, FUSE_MOUNT_TYPE) != 0)
        return error_set(error, ERROR_SYSTEM, "mount on '%s': it was taken away at once", resolved);
    *ret = (struct fuse_mount){ .device_major = entry.device_major,
                                .device_minor = entry.device_minor,
                                .mountpoint = take_pointer(&resolved),
                                .attached = true };
    return take_descriptor(&descriptor);
}

/* Somebody may have unmounted it, and mounted something else there. */
static bool is_still_there(const struct fuse_mount *mount)
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

void fuse_mount_detach(struct fuse_mount *mount)
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

void fuse_mount_free(struct fuse_mount *mount)
{
    fuse_mount_detach(mount);
    free(mount->mountpoint);
    mount->mountpoint = NULL;
}

static void write_number(const char *path, unsigned number)
{
    cleanup_close int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    char text[16];
    int length = snprintf(text, sizeof text, "%u", number);
    if (descriptor < 0 || write_fully(descriptor, text, (size_t)length) < 0)
        log_info("'%s' stays as the kernel sets it: %s", path, strerror(errno));
}

void fuse_mount_tune(const struct fuse_mount *mount)
{
    char path[80];
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", mount->device_major,
             mount->device_minor);
    write_number(path, READAHEAD_KIBIBYTES);
    /* The kernel's Documentation/filesystems/fuse.rst, "Control filesystem". */
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/max_background", mount->device_minor);
    write_number(path, FUSE_MOUNT_BACKGROUND);
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/congestion_threshold",
             mount->device_minor);
    write_number(path, FUSE_MOUNT_BACKGROUND);
}
