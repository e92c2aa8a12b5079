/*
 * Directories as they are in a snapshot's user namespace: id-mapped mounts (mount_setattr(2)),
 * read-only, at ROOT/mapped/ID/NAME. They stay when this process ends; those that have gone with
 * the machine are made again when they are asked for. Thread safe.
 */
#ifndef SLUICE_SNAPSHOTTER_MAPPED_VIEWS_INTERNAL_H
#define SLUICE_SNAPSHOTTER_MAPPED_VIEWS_INTERNAL_H

#include <stdint.h>

#include "base/error.h"

struct mapped_views;

/* Makes what is missing of `root`, an absolute path. */
int mapped_views_open(struct mapped_views **ret, const char *root, struct error **error);
/* What is mounted stays. NULL is fine. */
void mapped_views_close(struct mapped_views *views);

/* The path where `source` is mounted for snapshot `id`, in fresh memory; NULL: error is set.
 * `users` and `groups` are mappings of id_mapping-internal.h, which a snapshot has from its
 * beginning. ERROR_UNSUPPORTED where the kernel cannot map the owners of this file system. */
char *mapped_views_show(struct mapped_views *views, int64_t id, const char *name,
                        const char *source, const char *users, const char *groups,
                        struct error **error);
/* Unmounts all of a snapshot; there need not be any. Who has mounted an overlay of it goes on. */
void mapped_views_remove(struct mapped_views *views, int64_t id);
/* As snapshot_directories_keep(). */
int mapped_views_keep(struct mapped_views *views,
                      int (*wanted)(void *context, int64_t id, struct error **error), void *context,
                      struct error **error);

#endif
