/* What is mounted where, by /proc/self/mountinfo (proc_pid_mountinfo(5)): asking it touches no
 * file system, so a dead or hanging mount cannot stop the one who asks. */
#ifndef SLUICE_FUSE_MOUNT_TABLE_H
#define SLUICE_FUSE_MOUNT_TABLE_H

#include <stdbool.h>

#include "base/error.h"

struct mount_entry {
    unsigned device_major, device_minor; /* of the superblock, as in st_dev */
    bool ours;                           /* made by sluice, by either front door */
    bool by_kernel;                      /* and that by the kernel's */
};

/* The uppermost mount whose mount point is `path` (absolute, without symbolic links, "." or "..").
 * *ret_found tells whether there is one. */
int mount_table_find(const char *path, bool *ret_found, struct mount_entry *ret,
                     struct error **error);

/* Calls `seen` for every mount of ours, the oldest first. */
struct our_mount {
    const char *path;
    const char *image; /* its name, perhaps cut; whoever mounted chose it */
    bool by_kernel;    /* by the kernel front door */
};
typedef void mount_seen(void *context, const struct our_mount *mount);
int mount_table_each(mount_seen *seen, void *context, struct error **error);

#endif
