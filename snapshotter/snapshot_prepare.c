#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "snapshotter/id_mapping-internal.h"
#include "snapshotter/mapped_views-internal.h"
#include "snapshotter/overlay_mounts-internal.h"
#include "snapshotter/snapshot_lowers-internal.h"
#include "snapshotter/snapshotter-internal.h"

/* How a snapshot's labels have its owners mapped; users NULL: they are not. */
struct mapping {
    const char *users, *groups;
};

static struct mapping mapping_of(const struct snapshotter *snapshotter, const struct labels *labels)
{
    if (!snapshotter->remap_ids) return (struct mapping){ 0 };
    return (struct mapping){ labels_get(labels, LABEL_UID_MAPPING),
                             labels_get(labels, LABEL_GID_MAPPING) };
}

static int overlay_of(struct snapshotter *snapshotter, int64_t id, enum snapshot_kind kind,
                      struct mapping mapping, const struct snapshot_lowers *lowers,
                      struct mount_list *ret, struct error **error)
{
    cleanup_free char *upper = snapshot_directories_fs(snapshotter->directories, id);
    cleanup_free char *work = snapshot_directories_work(snapshotter->directories, id);
    if (!upper || !work) return error_set_memory(error);
    const struct overlay_parts parts = {
        .kind = kind,
        .upper = upper,
        .work = work,
        .lowers = lowers->paths,
        .lower_count = lowers->count,
        .uid_mapping = mapping.users,
        .gid_mapping = mapping.groups,
        .options = (const char *const *)snapshotter->overlay_options,
        .option_count = snapshotter->overlay_option_count,
    };
    return overlay_mounts(&parts, ret, error);
}

/* containerd maps what the directories below have in common, up to version 2.2 without the mounts
 * that are in there; so what is lazy is mapped here, and with it all that is below the snapshot. As
 * there, users without groups are not mapped. */
static int mounts_of(struct snapshotter *snapshotter, int64_t id, enum snapshot_kind kind,
                     const struct labels *labels, struct snapshot_lowers *lowers,
                     struct mount_list *ret, struct error **error)
{
    struct mapping mapping = mapping_of(snapshotter, labels);
    if (lowers->lazy && mapping.users && mapping.groups) {
        if (snapshot_lowers_map(snapshotter, id, mapping.users, mapping.groups, lowers, error) < 0)
            return error_hint(error, "containerd copies the image instead where neither its "
                                     "configuration has \"remap-ids\" nor ours remap_ids");
        mapping = (struct mapping){ 0 };
    }
    return overlay_of(snapshotter, id, kind, mapping, lowers, ret, error);
}

/* Root of the container, where its labels say who that is on the host. */
static int map_owner(const struct labels *labels, struct stat *like, struct error **error)
{
    const char *users = labels_get(labels, LABEL_UID_MAPPING);
    const char *groups = labels_get(labels, LABEL_GID_MAPPING);
    if (!users && !groups) return 0;
    id_t user = 0, group = 0;
    if (users && id_mapping_root(users, &user, error) < 0) return -1;
    if (groups && id_mapping_root(groups, &group, error) < 0) return -1;
    like->st_uid = user;
    like->st_gid = group;
    return 0;
}

/* The upper directory is what is seen of the root directory: its owner is as it was below. */
static int root_of(const struct snapshot_lowers *lowers, const struct labels *labels,
                   struct stat *ret, struct error **error)
{
    *ret = (struct stat){ .st_uid = geteuid(), .st_gid = getegid() };
    if (lowers->count && stat(lowers->paths[0], ret) < 0) {
        /* The parent may have been removed just now. */
        if (errno == ENOENT)
            return error_set(error, ERROR_NOT_FOUND, "parent '%s' does not exist",
                             lowers->paths[0]);
        return error_set_errno(error, errno, "stat parent '%s'", lowers->paths[0]);
    }
    return map_owner(labels, ret, error);
}

/* The row first, for the id; when it is committed, the directories are there. */
static int insert_with_directories(struct snapshotter *snapshotter, struct snapshot_record *record,
                                   const struct stat *like, struct error **error)
{
    struct snapshot_store *store = snapshotter->store;
    if (snapshot_name_free(snapshotter, record->info.name, error) < 0) return -1;
    if (record->parent) {
        int there = snapshot_store_has_id(store, record->parent, error);
        if (there < 0) return -1;
        if (!there)
            return error_set(error, ERROR_NOT_FOUND, "parent snapshot '%s' does not exist",
                             record->info.parent);
    }
    record->info.created = record->info.updated = snapshot_time_now();
    if (snapshot_store_insert(store, record, error) < 0) return -1;
    return snapshot_directories_make(snapshotter->directories, record->id,
                                     record->info.kind == SNAPSHOT_ACTIVE, like, error);
}

static int create_record(struct snapshotter *snapshotter, struct snapshot_record *record,
                         const struct stat *like, struct error **error)
{
    if (snapshot_store_begin(snapshotter->store, error) < 0) return -1;
    if (insert_with_directories(snapshotter, record, like, error) < 0) {
        snapshot_store_rollback(snapshotter->store);
        return -1;
    }
    if (snapshot_store_commit(snapshotter->store, error) == 0) return 0;
    cleanup_error struct error *failure = NULL;
    if (snapshot_directories_remove(snapshotter->directories, record->id, &failure) < 0)
        log_warning("%s", error_message(failure));
    return -1;
}

/* What cannot be mounted was not made. */
static void undo(struct snapshotter *snapshotter, const char *key)
{
    cleanup_error struct error *error = NULL;
    if (snapshotter_remove(snapshotter, key, &error) < 0) log_warning("%s", error_message(error));
}

static int create_above(struct snapshotter *snapshotter, enum snapshot_kind kind, const char *key,
                        const struct snapshot_parent *parent, const struct labels *labels,
                        struct mount_list *ret, struct error **error)
{
    struct stat like;
    cleanup_snapshot_lowers struct snapshot_lowers lowers = { 0 };
    if (snapshot_lowers_find(snapshotter, &parent->record, &parent->chain, &lowers, error) < 0 ||
        root_of(&lowers, labels, &like, error) < 0)
        return -1;
    struct snapshot_record record = {
        .parent = parent->record.id,
        .info = { .kind = kind,
                  .name = (char *)key,
                  .parent = parent->record.info.name,
                  .labels = *labels },
    };
    if (create_record(snapshotter, &record, &like, error) < 0) return -1;
    if (mounts_of(snapshotter, record.id, kind, labels, &lowers, ret, error) == 0) return 0;
    undo(snapshotter, key);
    return -1;
}

static int create(struct snapshotter *snapshotter, enum snapshot_kind kind, const char *key,
                  const char *parent_name, const struct labels *labels, struct mount_list *ret,
                  struct error **error)
{
    cleanup_snapshot_parent struct snapshot_parent parent = { 0 };
    if (snapshot_name_check(key, error) < 0 ||
        snapshot_parent_find(snapshotter, parent_name, ERROR_INVALID, &parent, error) < 0 ||
        snapshot_name_free(snapshotter, key, error) < 0)
        return -1;
    if (kind == SNAPSHOT_ACTIVE && snapshot_lazy_prepare(snapshotter, &parent, labels, error) < 0)
        return -1;
    return create_above(snapshotter, kind, key, &parent, labels, ret, error);
}

int snapshotter_prepare(struct snapshotter *snapshotter, const char *key, const char *parent,
                        const struct labels *labels, struct mount_list *ret, struct error **error)
{
    return create(snapshotter, SNAPSHOT_ACTIVE, key, parent, labels, ret, error);
}

int snapshotter_view(struct snapshotter *snapshotter, const char *key, const char *parent,
                     const struct labels *labels, struct mount_list *ret, struct error **error)
{
    return create(snapshotter, SNAPSHOT_VIEW, key, parent, labels, ret, error);
}

/* Together, so that the chain is the snapshot's. */
static int find_with_chain(struct snapshotter *snapshotter, const char *key,
                           struct snapshot_record *ret, struct snapshot_chain *ret_chain,
                           struct error **error)
{
    snapshot_store_lock(snapshotter->store);
    int result = snapshot_store_find(snapshotter->store, key, ret, error);
    if (result == 0)
        result = snapshot_store_chain(snapshotter->store, ret->parent, ret_chain, error);
    snapshot_store_unlock(snapshotter->store);
    return result;
}

/* What was mapped for a snapshot that was removed meanwhile goes again. */
static int still_there(struct snapshotter *snapshotter, const char *key, int64_t id,
                       struct error **error)
{
    int there = snapshot_store_has_id(snapshotter->store, id, error);
    if (there != 0) return there < 0 ? -1 : 0;
    mapped_views_remove(snapshotter->views, id);
    return error_set(error, ERROR_NOT_FOUND, "snapshot '%s' does not exist", key);
}

int snapshotter_mounts(struct snapshotter *snapshotter, const char *key, struct mount_list *ret,
                       struct error **error)
{
    cleanup_snapshot_record struct snapshot_record record = { 0 };
    cleanup_snapshot_chain struct snapshot_chain chain = { 0 };
    cleanup_snapshot_lowers struct snapshot_lowers lowers = { 0 };
    if (find_with_chain(snapshotter, key, &record, &chain, error) < 0) return -1;
    if (record.info.kind == SNAPSHOT_COMMITTED)
        return error_set(error, ERROR_PRECONDITION, "snapshot '%s' is neither active nor a view",
                         key);
    if (snapshot_lowers_find(snapshotter, &record, &chain, &lowers, error) < 0) return -1;
    if (mounts_of(snapshotter, record.id, record.info.kind, &record.info.labels, &lowers, ret,
                  error) < 0)
        return -1;
    return still_there(snapshotter, key, record.id, error);
}
