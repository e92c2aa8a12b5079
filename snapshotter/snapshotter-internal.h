/* What the files behind snapshotter.h share. */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOTTER_INTERNAL_H
#define SLUICE_SNAPSHOTTER_SNAPSHOTTER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "snapshotter/snapshot_directories-internal.h"
#include "snapshotter/snapshot_store-internal.h"
#include "snapshotter/snapshotter.h"

struct snapshotter {
    struct snapshot_store *store;
    struct snapshot_directories *directories;
    struct mapped_views *views;
    const struct lazy_source *lazy; /* NULL: none */
    char **overlay_options;
    size_t overlay_option_count;
    bool remap_ids;
};

/* The parent of something that is to be made. */
struct snapshot_parent {
    struct snapshot_record record; /* id 0: none */
    struct snapshot_chain chain;   /* from the parent down */
};

void snapshot_parent_free(struct snapshot_parent *parent);
#define cleanup_snapshot_parent __attribute__((cleanup(snapshot_parent_free)))

/* ERROR_INVALID: empty, or too long to be stored. */
int snapshot_name_check(const char *name, struct error **error);
/* ERROR_EXISTS where there is one of this name. */
int snapshot_name_free(struct snapshotter *snapshotter, const char *name, struct error **error);
/* `name` may be "". ERROR_NOT_FOUND, and `uncommitted` where it is no committed snapshot. */
int snapshot_parent_find(struct snapshotter *snapshotter, const char *name,
                         enum error_kind uncommitted, struct snapshot_parent *ret,
                         struct error **error);

/* ERROR_EXISTS: the layer that `labels` ask for is there, or has just been made a lazy snapshot;
 * 0: it is to be unpacked. */
int snapshot_lazy_prepare(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                          const struct labels *labels, struct error **error);
/* Tells the source when no snapshot uses `image`. */
void snapshot_lazy_release(struct snapshotter *snapshotter, uint64_t image);

struct timespec snapshot_time_now(void);

#endif
