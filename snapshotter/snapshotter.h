/*
 * containerd's snapshots: directories for what is unpacked ordinarily and for what containers
 * write, and names for what is provided lazily. Method by method as containerd's overlay
 * snapshotter has it (core/snapshots/snapshotter.go says what each does), with one thing more: a
 * Prepare whose labels say which layer it is for may be answered by a committed snapshot that
 * nobody has to unpack (lazy_source.h).
 *
 * Thread safe. Names are any bytes but NUL. Errors have the kinds that containerd expects:
 * ERROR_NOT_FOUND, ERROR_EXISTS, ERROR_PRECONDITION, ERROR_INVALID (an argument), and
 * ERROR_UNREACHABLE where a lazy image cannot be had now.
 */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOTTER_H
#define SLUICE_SNAPSHOTTER_SNAPSHOTTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/error.h"
#include "snapshotter/labels.h"
#include "snapshotter/lazy_source.h"

/* The numbers are those of containerd's snapshots.proto. */
enum snapshot_kind { SNAPSHOT_VIEW = 1, SNAPSHOT_ACTIVE = 2, SNAPSHOT_COMMITTED = 3 };

/* What is given out is owned by whoever asked, and freed by snapshot_info_free(). */
struct snapshot_info {
    enum snapshot_kind kind;
    char *name;
    char *parent; /* "": none */
    struct labels labels;
    struct timespec created, updated;
};

void snapshot_info_free(struct snapshot_info *info);
#define cleanup_snapshot_info __attribute__((cleanup(snapshot_info_free)))

struct snapshot_usage {
    uint64_t size; /* bytes on disk */
    uint64_t inodes;
};

/* One mount(8) to make; texts owned. */
struct mount_entry {
    char *type, *source;
    char *target; /* "": the root of the container */
    char **options;
    size_t option_count;
};

struct mount_list {
    struct mount_entry *entries;
    size_t count;
};

void mount_list_free(struct mount_list *list);
#define cleanup_mount_list __attribute__((cleanup(mount_list_free)))

struct snapshotter_options {
    const char *root;               /* an absolute path; made with mode 0700 */
    const struct lazy_source *lazy; /* NULL: every snapshot is an ordinary one; must outlive it */
    /* More options of overlay mounts, as "volatile". */
    const char *const *overlay_options;
    size_t overlay_option_count;
    /* Mounts of snapshots with the labels containerd.io/snapshot/uidmapping and gidmapping have the
     * options uidmap= and gidmap=, which containerd knows from 1.7 on. */
    bool remap_ids;
};

struct snapshotter;

/* Removes what a crash has left in `root`. ERROR_PRECONDITION: another process has it open;
 * ERROR_INVALID: the state is damaged, or of a newer version. */
int snapshotter_open(struct snapshotter **ret, const struct snapshotter_options *options,
                     struct error **error);
/* What is still being removed from the disk is left for the next start. No call may be under way.
 * NULL is fine. */
void snapshotter_free(struct snapshotter *snapshotter);

/* `parent` is "" or a committed snapshot. ERROR_EXISTS from _prepare() where `labels` have
 * "containerd.io/snapshot.ref": the layer is there, as a committed snapshot with that label and
 * that parent. */
int snapshotter_prepare(struct snapshotter *snapshotter, const char *key, const char *parent,
                        const struct labels *labels, struct mount_list *ret, struct error **error);
int snapshotter_view(struct snapshotter *snapshotter, const char *key, const char *parent,
                     const struct labels *labels, struct mount_list *ret, struct error **error);
/* Of an active snapshot or a view. */
int snapshotter_mounts(struct snapshotter *snapshotter, const char *key, struct mount_list *ret,
                       struct error **error);
/* The snapshot's labels become `labels`. `parent` is "" or, where it was prepared without one, the
 * parent that it gets (the capability "rebase"). */
int snapshotter_commit(struct snapshotter *snapshotter, const char *name, const char *key,
                       const char *parent, const struct labels *labels, struct error **error);
/* Its directory is gone from its place at once, and from the disk soon. */
int snapshotter_remove(struct snapshotter *snapshotter, const char *key, struct error **error);
int snapshotter_stat(struct snapshotter *snapshotter, const char *key, struct snapshot_info *ret,
                     struct error **error);
/* Sets the labels of info->name, or with field paths "labels" or "labels.KEY" those that they name.
 * `ret` is what it is now. */
int snapshotter_update(struct snapshotter *snapshotter, const struct snapshot_info *info,
                       const char *const *paths, size_t path_count, struct snapshot_info *ret,
                       struct error **error);

/* -1 with the error set ends the walk. */
typedef int snapshotter_visit(void *context, const struct snapshot_info *info,
                              struct error **error);
/* Those that one of `filters` names (filters.h); all when there is none. `visit` may take its time
 * and may call the snapshotter. */
int snapshotter_list(struct snapshotter *snapshotter, const char *const *filters,
                     size_t filter_count, snapshotter_visit *visit, void *context,
                     struct error **error);
/* What is in the snapshot's own directory; nothing for lazy ones. */
int snapshotter_usage(struct snapshotter *snapshotter, const char *key, struct snapshot_usage *ret,
                      struct error **error);
/* Waits until what was removed has left the disk. */
int snapshotter_cleanup(struct snapshotter *snapshotter, struct error **error);

#endif
