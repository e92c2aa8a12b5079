#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/layer_store-internal.h"

/* Not that of images (fuse/fuse_mount.h), for it is none. */
#define MOUNT_TYPE   "fuse.sluice-layers"
#define MOUNT_SOURCE "sluice-layers"

/* What one before it, which was killed, has left. */
static void detach_dead(const char *path)
{
    struct stat ignored;
    while (stat(path, &ignored) < 0 && errno == ENOTCONN)
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0) return;
}

int layer_store_attach(const char *path, struct error **error)
{
    char data[80];
    detach_dead(path);
    if (directory_make(path, 0700, error) < 0) return -1;
    cleanup_close int connection = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (connection < 0) {
        error_set_errno(error, errno, "open '/dev/fuse'");
        return error_hint(
            error, "load the kernel module (modprobe fuse), or give the container /dev/fuse");
    }
    /* Writable, or the kernel would not ask for what tells of a use. For root alone, as what is
     * mounted is. */
    snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions",
             connection);
    if (mount(MOUNT_SOURCE, path, MOUNT_TYPE, MS_NOSUID | MS_NODEV | MS_NOEXEC, data) < 0)
        return error_set_errno(error, errno, "mount on '%s'", path);
    return take_descriptor(&connection);
}

void layer_store_detach(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
        log_warning("unmount '%s': %s", path, strerror(errno));
}
