/* Taking apart directories that somebody may have filled with anything. */
#ifndef SLUICE_SNAPSHOTTER_TREE_REMOVAL_INTERNAL_H
#define SLUICE_SNAPSHOTTER_TREE_REMOVAL_INTERNAL_H

#include <stdatomic.h>

/* Removes what is in the directory that `descriptor` is open on, however deep and full it is, with
 * three descriptors. What cannot be removed stays and is logged as in `path`. Ends early when
 * `stop` is set. Two calls for one directory must not run at once. */
void tree_removal_empty(int descriptor, const char *path, const atomic_bool *stop);

#endif
