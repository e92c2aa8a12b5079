/* A tree of ours at a mount point, whatever kind of file system shows it. */
#ifndef SLUICE_FUSE_TREE_MOUNT_H
#define SLUICE_FUSE_TREE_MOUNT_H

#include <stdbool.h>

#include "base/error.h"

#define TREE_MOUNT_BDI "/sys/class/bdi"

struct tree_mount {
    char *mountpoint;                    /* owned; resolved */
    unsigned device_major, device_minor; /* of the superblock */
    char bdi[32];                        /* its entry in /sys/class/bdi; "": none is known */
    bool attached;
};

/* The mount point's real path in fresh memory, once it is known that it can be one: an existing
 * directory, absolute, without a tree of ours on it. NULL: error is set. */
char *tree_mount_resolve(const char *mountpoint, struct error **error);
/* Fills `ret` for what was just mounted on `resolved`, which is taken over unless it fails. */
int tree_mount_note(struct tree_mount *ret, char **resolved, struct error **error);
/* Takes the mount out of the name space, at once, also when files are open in it; nothing happens
 * if it is not (or no longer) there. */
void tree_mount_detach(struct tree_mount *mount);
/* Detaches first. */
void tree_mount_free(struct tree_mount *mount);

/* How many KiB the kernel reads ahead of who reads in sequence, and brings with each fault of a
 * mapped file; it starts with 128. Only root can. */
void tree_mount_set_readahead(const struct tree_mount *mount, unsigned kibibytes);

/* Writes a number to a file of /sys; a line in the log says where it cannot. */
void tree_mount_set(const char *path, unsigned number);

#endif
