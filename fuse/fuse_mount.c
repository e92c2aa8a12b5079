#include "fuse/fuse_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fuse/fusermount-internal.h"

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

int fuse_mount_attach(struct tree_mount *ret, const char *mountpoint,
                      const struct fuse_mount_options *options, struct error **error)
{
    cleanup_free char *resolved = tree_mount_resolve(mountpoint, error);
    if (!resolved) return -1;
    cleanup_close int descriptor = attach(resolved, options, error);
    if (descriptor < 0 || tree_mount_note(ret, &resolved, error) < 0) return -1;
    return take_descriptor(&descriptor);
}

void fuse_mount_tune(unsigned device_minor)
{
    char path[80];
    /* The kernel's Documentation/filesystems/fuse.rst, "Control filesystem". */
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/max_background", device_minor);
    tree_mount_set(path, FUSE_MOUNT_BACKGROUND);
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/congestion_threshold", device_minor);
    tree_mount_set(path, FUSE_MOUNT_BACKGROUND);
}
