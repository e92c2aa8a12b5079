#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/pull_labels.h"
#include "snapshotter/snapshotter-internal.h"

static int exists(const char *chain_id, struct error **error)
{
    return error_set(error, ERROR_EXISTS, "layer '%s' is there", chain_id);
}

void snapshot_lazy_release(struct snapshotter *snapshotter, uint64_t image)
{
    if (!image || !snapshotter->lazy) return;
    cleanup_error struct error *error = NULL;
    /* With the lock held, nobody begins to use it before the source knows. */
    snapshot_store_lock(snapshotter->store);
    int64_t uses = snapshot_store_count_uses(snapshotter->store, image, &error);
    if (uses == 0) snapshotter->lazy->unused(snapshotter->lazy->context, image);
    snapshot_store_unlock(snapshotter->store);
    if (uses < 0) log_warning("a lazy image may be kept too long: %s", error_message(error));
}

/* The chain ID, as other snapshotters have it; another name where the same layer is there above
 * another parent, which containerd does not take for the same. */
static char *free_name(struct snapshotter *snapshotter, const char *chain_id, struct error **error)
{
    for (unsigned i = 1;; i++) {
        char *name = i == 1 ? strdup(chain_id) : format_text("%s#%u", chain_id, i);
        if (!name) {
            error_set_memory(error);
            return NULL;
        }
        int taken = snapshot_store_has_name(snapshotter->store, name, error);
        if (taken == 0) return name;
        free(name);
        if (taken < 0) return NULL;
    }
}

static int insert(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                  const struct lazy_layer *layer, const struct lazy_use *use, struct error **error)
{
    struct timespec now = snapshot_time_now();
    cleanup_free char *name = free_name(snapshotter, layer->chain_id, error);
    if (!name) return -1;
    struct snapshot_record record = {
        .parent = parent->record.id,
        .use = *use,
        .info = { SNAPSHOT_COMMITTED, name, parent->record.info.name, *layer->labels, now, now },
    };
    return snapshot_store_insert(snapshotter->store, &record, error);
}

/* In a transaction. 1: the row is written, and the source knows; 0: the image or the parent has
 * gone meanwhile; ERROR_EXISTS: somebody else was faster. */
static int insert_once(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                       const struct lazy_layer *layer, const struct lazy_use *use,
                       struct error **error)
{
    struct snapshot_store *store = snapshotter->store;
    if (parent->record.id) {
        int there = snapshot_store_has_id(store, parent->record.id, error);
        if (there != 1) return there;
    }
    int present = snapshot_store_has_lazy(store, layer->chain_id, parent->record.id, error);
    if (present) return present < 0 ? -1 : exists(layer->chain_id, error);
    if (!snapshotter->lazy->used(snapshotter->lazy->context, use)) return 0;
    return insert(snapshotter, parent, layer, use, error) < 0 ? -1 : 1;
}

/* As insert_once(). */
static int commit_once(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                       const struct lazy_layer *layer, const struct lazy_use *use,
                       struct error **error)
{
    struct snapshot_store *store = snapshotter->store;
    if (snapshot_store_begin(store, error) < 0) return -1;
    int result = insert_once(snapshotter, parent, layer, use, error);
    if (result == 1) return snapshot_store_commit(store, error) < 0 ? -1 : 1;
    snapshot_store_rollback(store);
    return result;
}

/* An image may go between being wanted and being used, when its last snapshot is removed just then:
 * it is asked for again, a few times. */
static int want(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                const struct lazy_layer *layer, struct error **error)
{
    for (int i = 0; i < 3; i++) {
        struct lazy_use use;
        int wanted = snapshotter->lazy->want(snapshotter->lazy->context, layer, &use, error);
        if (wanted != 1) return wanted;
        int result = commit_once(snapshotter, parent, layer, &use, error);
        if (result == 1) return exists(layer->chain_id, error);
        snapshot_lazy_release(snapshotter, use.image);
        if (result < 0) return -1;
    }
    return 0;
}

int snapshot_lazy_prepare(struct snapshotter *snapshotter, const struct snapshot_parent *parent,
                          const struct labels *labels, struct error **error)
{
    const char *chain_id = labels_get(labels, LABEL_SNAPSHOT_REF);
    if (!chain_id) return 0;
    int present = snapshot_store_has_lazy(snapshotter->store, chain_id, parent->record.id, error);
    if (present) return present < 0 ? -1 : exists(chain_id, error);

    struct lazy_layer layer;
    const struct labels *below = parent->record.id ? &parent->record.info.labels : NULL;
    if (!snapshotter->lazy || !pull_labels_read(labels, below, &layer)) return 0;
    return want(snapshotter, parent, &layer, error);
}
