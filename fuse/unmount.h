/* Unmounting from outside the server: what `sluice umount` does. */
#ifndef SLUICE_FUSE_UNMOUNT_H
#define SLUICE_FUSE_UNMOUNT_H

#include <stdbool.h>

#include "base/error.h"

/*
 * Takes the sluice mount at `path` (absolute, resolved) out of the name space; the server notices
 * and ends. ERROR_NOT_FOUND where no sluice file system is mounted there. One that is in use is an
 * error (EBUSY) unless `lazy`: then it is detached at once, and its server lives until nothing uses
 * it any more.
 */
int unmount_tree(const char *path, bool lazy, struct error **error);

#endif
