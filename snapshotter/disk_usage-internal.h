/* What a directory takes on its disk. */
#ifndef SLUICE_SNAPSHOTTER_DISK_USAGE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_DISK_USAGE_INTERNAL_H

#include "base/error.h"
#include "snapshotter/snapshotter.h"

/* Blocks and inodes of `path` and all below, a file with several names once. What goes away while
 * it is counted does not count. ERROR_UNSUPPORTED: directories nested more than 1,000 deep. */
int disk_usage_of(const char *path, struct snapshot_usage *ret, struct error **error);

#endif
