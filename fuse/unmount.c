#include "fuse/unmount.h"

#include <errno.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fuse/fusermount-internal.h"
#include "fuse/mount_table.h"

static int check_is_ours(const char *path, struct error **error)
{
    struct mount_entry entry;
    bool found;
    if (mount_table_find(path, &found, &entry, error) < 0) return -1;
    if (found && entry.ours) return 0;
    error_set(error, ERROR_NOT_FOUND, "'%s' is not a sluice mount", path);
    return error_hint(error, "'sluice status' lists them");
}

int unmount_tree(const char *path, bool lazy, struct error **error)
{
    if (check_is_ours(path, error) < 0) return -1;
    if (umount2(path, (lazy ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) == 0) return 0;
    int number = errno;
    if (number == EPERM && geteuid() != 0) return fusermount_detach(path, lazy, error);
    error_set_errno(error, number, "unmount '%s'", path);
    if (number == EBUSY)
        error_hint(error, "end the programs that use it ('fuser -vm %s' lists them), or use --lazy",
                   path);
    return -1;
}
