/* The mounts that make a snapshot visible, as containerd's overlay snapshotter has them. */
#ifndef SLUICE_SNAPSHOTTER_OVERLAY_MOUNTS_INTERNAL_H
#define SLUICE_SNAPSHOTTER_OVERLAY_MOUNTS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "snapshotter/snapshotter.h"

struct overlay_parts {
    enum snapshot_kind kind;  /* active or view */
    const char *upper, *work; /* the snapshot's own directories; work only of an active one */
    char *const *lowers;      /* from the top down */
    size_t lower_count;
    const char *uid_mapping, *gid_mapping; /* NULL: none */
    const char *const *options;            /* more of overlay's */
    size_t option_count;
};

/* A bind mount where there is only one directory, else an overlay. */
int overlay_mounts(const struct overlay_parts *parts, struct mount_list *ret, struct error **error);

#endif
