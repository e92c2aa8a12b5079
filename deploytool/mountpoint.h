/* A directory that a person names, as the absolute path under which its mount is known. */
#ifndef SLUICE_DEPLOYTOOL_MOUNTPOINT_H
#define SLUICE_DEPLOYTOOL_MOUNTPOINT_H

#include <stdbool.h>

#include "base/error.h"

/*
 * In fresh memory; NULL: error is set. Only what is above the directory is
 * resolved: to look at the directory itself would mean to ask its server, and
 * that may be gone.
 */
char *mountpoint_path(const char *directory, struct error **error);

/* Whether what is mounted on `path` (resolved) is of ours and its server was killed. Other users'
 * servers cannot be asked, and count as alive. */
bool mountpoint_is_dead(const char *path);

/* Whether `path` (resolved) is where sluiced mounts an image: it knows of this mount, and nobody
 * else should end it. Does not touch what is mounted, which may wait for sluiced. */
bool mountpoint_is_of_sluiced(const char *path);

#endif
