/* Taking apart directories that somebody may have filled with anything. */
#ifndef SLUICE_SNAPSHOTTER_TREE_REMOVAL_INTERNAL_H
#define SLUICE_SNAPSHOTTER_TREE_REMOVAL_INTERNAL_H

#include <stdatomic.h>

/* Removes `name`, a file or a tree, from the directory that `parent` is open on, whose path `path`
 * is for the log. However deep and full the tree is, that takes three descriptors and 16 bytes a
 * level. Nothing is renamed: a rename between directories waits for every other one in the file
 * system, and overlayfs holds one back while it copies a file up. Other file systems that are
 * mounted in the tree are not entered. What cannot be removed stays and is logged. Ends early when
 * `stop` is set. */
void tree_removal_run(int parent, const char *name, const char *path, const atomic_bool *stop);

#endif
