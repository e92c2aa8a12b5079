/*
 * The directories of ordinary snapshots: ROOT/snapshots/ID with `fs`, what the snapshot has, and
 * for an active one overlayfs's `work`. What is removed is called removed-... at once, and a thread
 * takes it apart.
 */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOT_DIRECTORIES_INTERNAL_H
#define SLUICE_SNAPSHOTTER_SNAPSHOT_DIRECTORIES_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "snapshotter/snapshotter.h"

struct snapshot_directories;

/* Whether there are some below `root`, or some that were removed. */
bool snapshot_directories_have_any(const char *root);
/* Makes what is missing of `root`, an absolute path. */
int snapshot_directories_open(struct snapshot_directories **ret, const char *root,
                              struct error **error);
/* What is still to be removed is left for the next time. */
void snapshot_directories_close(struct snapshot_directories *directories);

/* Makes the directory of `id`, in place of one that a crash has left. `like`: the owner of
 * `fs`. After a failure nothing is there. */
int snapshot_directories_make(struct snapshot_directories *directories, int64_t id, bool with_work,
                              const struct stat *like, struct error **error);
/* Nothing to do where there is none. */
int snapshot_directories_remove(struct snapshot_directories *directories, int64_t id,
                                struct error **error);
/* The one that all are in; valid as long as `directories`. */
const char *snapshot_directories_all(const struct snapshot_directories *directories);
/* Of `fs` and `work`, in fresh memory; NULL: out of memory. */
char *snapshot_directories_fs(const struct snapshot_directories *directories, int64_t id);
char *snapshot_directories_work(const struct snapshot_directories *directories, int64_t id);

/* Removes those that `wanted` says no (0) to; it says -1 for an error. The caller sees to it that
 * none is made meanwhile. */
int snapshot_directories_keep(struct snapshot_directories *directories,
                              int (*wanted)(void *context, int64_t id, struct error **error),
                              void *context, struct error **error);
/* Waits until what was removed before has been taken apart, as far as that can be done. */
void snapshot_directories_settle(struct snapshot_directories *directories);

#endif
