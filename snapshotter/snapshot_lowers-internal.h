/* The directories below a snapshot. */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOT_LOWERS_INTERNAL_H
#define SLUICE_SNAPSHOTTER_SNAPSHOT_LOWERS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "snapshotter/snapshotter-internal.h"

struct snapshot_lowers {
    char **paths; /* from the top down */
    size_t count;
    bool lazy; /* the last one is an image's mount */
};

void snapshot_lowers_free(struct snapshot_lowers *lowers);
#define cleanup_snapshot_lowers __attribute__((cleanup(snapshot_lowers_free)))

/* Has what is lazy mounted. `keeper` is the snapshot for whose sake its image is kept:
 * ERROR_NOT_FOUND where both have gone just now. `ret` is to be freed whatever comes of it. */
int snapshot_lowers_find(struct snapshotter *snapshotter, const struct snapshot_record *keeper,
                         const struct snapshot_chain *chain, struct snapshot_lowers *ret,
                         struct error **error);
/* They become what they are in the user namespace of snapshot `id` (mapped_views-internal.h). */
int snapshot_lowers_map(struct snapshotter *snapshotter, int64_t id, const char *users,
                        const char *groups, struct snapshot_lowers *lowers, struct error **error);

#endif
