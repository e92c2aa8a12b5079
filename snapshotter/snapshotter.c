#include "snapshotter/snapshotter-internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/disk_usage-internal.h"
#include "snapshotter/filters-internal.h"
#include "snapshotter/mapped_views-internal.h"

/* What containerd's own store takes. */
#define NAME_LENGTH_MAX 32768

/* Rows that a walk holds at once. */
#define PAGE 64

void snapshot_info_free(struct snapshot_info *info)
{
    free(info->name);
    free(info->parent);
    labels_free(&info->labels);
    *info = (struct snapshot_info){ 0 };
}

void snapshot_parent_free(struct snapshot_parent *parent)
{
    snapshot_record_free(&parent->record);
    snapshot_chain_free(&parent->chain);
}

struct timespec snapshot_time_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time;
}

int snapshot_name_check(const char *name, struct error **error)
{
    if (!*name) return error_set(error, ERROR_INVALID, "a snapshot without a name");
    if (strlen(name) > NAME_LENGTH_MAX)
        return error_set(error, ERROR_INVALID, "a snapshot's name of more than %d bytes",
                         NAME_LENGTH_MAX);
    return 0;
}

int snapshot_name_free(struct snapshotter *snapshotter, const char *name, struct error **error)
{
    int taken = snapshot_store_has_name(snapshotter->store, name, error);
    if (taken == 1) return error_set(error, ERROR_EXISTS, "snapshot '%s' exists", name);
    return taken;
}

int snapshot_parent_find(struct snapshotter *snapshotter, const char *name,
                         enum error_kind uncommitted, struct snapshot_parent *ret,
                         struct error **error)
{
    struct snapshot_store *store = snapshotter->store;
    if (!*name) return 0;
    snapshot_store_lock(store);
    int result = snapshot_store_find(store, name, &ret->record, error);
    if (result < 0)
        error_prefix(error, "parent");
    else if (ret->record.info.kind != SNAPSHOT_COMMITTED)
        result = error_set(error, uncommitted, "parent snapshot '%s' is not committed", name);
    else
        result = snapshot_store_chain(store, ret->record.id, &ret->chain, error);
    snapshot_store_unlock(store);
    return result;
}

static int copy_options(struct snapshotter *snapshotter, const struct snapshotter_options *options,
                        struct error **error)
{
    size_t count = options->overlay_option_count;
    snapshotter->lazy = options->lazy;
    snapshotter->remap_ids = options->remap_ids;
    snapshotter->overlay_options = calloc(count + 1, sizeof *snapshotter->overlay_options);
    if (!snapshotter->overlay_options) return error_set_memory(error);
    for (size_t i = 0; i < count; i++) {
        snapshotter->overlay_options[i] = strdup(options->overlay_options[i]);
        if (!snapshotter->overlay_options[i]) return error_set_memory(error);
        snapshotter->overlay_option_count++;
    }
    return 0;
}

/* Overlay's options join directories with ':' and are joined with ','. */
static int check_root(const char *root, struct error **error)
{
    if (*root != '/')
        return error_set(error, ERROR_INVALID, "state directory '%s' is no absolute path", root);
    if (strpbrk(root, ",:\\"))
        return error_set(error, ERROR_INVALID,
                         "state directory '%s' has one of \",:\\\", which overlayfs cannot take",
                         root);
    return 0;
}

static int has_id(void *context, int64_t id, struct error **error)
{
    return snapshot_store_has_id(context, id, error);
}

static int remove_leftovers(struct snapshotter *snapshotter, struct error **error)
{
    snapshot_store_lock(snapshotter->store);
    int result = mapped_views_keep(snapshotter->views, has_id, snapshotter->store, error);
    if (result == 0)
        result =
            snapshot_directories_keep(snapshotter->directories, has_id, snapshotter->store, error);
    snapshot_store_unlock(snapshotter->store);
    return result;
}

static int start_lazy(struct snapshotter *snapshotter, struct error **error)
{
    cleanup_free struct lazy_use *uses = NULL;
    size_t count = 0;
    if (!snapshotter->lazy) return 0;
    if (snapshot_store_uses(snapshotter->store, &uses, &count, error) < 0) return -1;
    return snapshotter->lazy->start(snapshotter->lazy->context, uses, count, error);
}

/* What is there is removed unless the database knows it. Without one it is somebody else's, or all
 * that is left of what containers have written. */
static int check_known(const char *root, const char *database, struct error **error)
{
    if (access(database, F_OK) == 0 || !snapshot_directories_have_any(root)) return 0;
    error_set(error, ERROR_PRECONDITION,
              "state directory '%s' has snapshots, but there is no '%s' that tells of them", root,
              database);
    return error_hint(error, "bring it back, or choose another directory, or move this one away");
}

static int open_state(struct snapshotter *snapshotter, const char *root, struct error **error)
{
    cleanup_free char *database = format_text("%s/metadata.db", root);
    if (!database) return error_set_memory(error);
    if (directory_make(root, 0700, error) < 0 || check_known(root, database, error) < 0 ||
        snapshot_store_open(&snapshotter->store, database, error) < 0 ||
        mapped_views_open(&snapshotter->views, root, error) < 0 ||
        snapshot_directories_open(&snapshotter->directories, root, error) < 0 ||
        remove_leftovers(snapshotter, error) < 0)
        return -1;
    return start_lazy(snapshotter, error);
}

int snapshotter_open(struct snapshotter **ret, const struct snapshotter_options *options,
                     struct error **error)
{
    if (check_root(options->root, error) < 0) return -1;
    struct snapshotter *snapshotter = calloc(1, sizeof *snapshotter);
    if (!snapshotter) return error_set_memory(error);
    if (copy_options(snapshotter, options, error) < 0 ||
        open_state(snapshotter, options->root, error) < 0) {
        snapshotter_free(snapshotter);
        return -1;
    }
    *ret = snapshotter;
    return 0;
}

void snapshotter_free(struct snapshotter *snapshotter)
{
    if (!snapshotter) return;
    snapshot_directories_close(snapshotter->directories);
    mapped_views_close(snapshotter->views);
    snapshot_store_close(snapshotter->store);
    for (size_t i = 0; i < snapshotter->overlay_option_count; i++)
        free(snapshotter->overlay_options[i]);
    free(snapshotter->overlay_options);
    free(snapshotter);
}

static int usage_of_directory(struct snapshotter *snapshotter, int64_t id,
                              struct snapshot_usage *ret, struct error **error)
{
    cleanup_free char *path = snapshot_directories_fs(snapshotter->directories, id);
    if (!path) return error_set_memory(error);
    return disk_usage_of(path, ret, error);
}

int snapshotter_usage(struct snapshotter *snapshotter, const char *key, struct snapshot_usage *ret,
                      struct error **error)
{
    cleanup_snapshot_record struct snapshot_record record = { 0 };
    if (snapshot_store_find(snapshotter->store, key, &record, error) < 0) return -1;
    *ret = record.usage;
    if (record.info.kind != SNAPSHOT_ACTIVE) return 0;
    return usage_of_directory(snapshotter, record.id, ret, error);
}

/* The parent that a committed snapshot has: it may get one late, but never another. */
static int choose_parent(struct snapshotter *snapshotter, struct snapshot_record *record,
                         const char *name, struct error **error)
{
    cleanup_snapshot_parent struct snapshot_parent parent = { 0 };
    if (!*name || strcmp(record->info.parent, name) == 0) return 0;
    if (record->parent)
        return error_set(error, ERROR_INVALID, "snapshot '%s' has the parent '%s', not '%s'",
                         record->info.name, record->info.parent, name);
    if (snapshot_parent_find(snapshotter, name, ERROR_PRECONDITION, &parent, error) < 0) return -1;
    record->parent = parent.record.id;
    return 0;
}

/* `active` is what it was when its usage was counted. */
static int commit_record(struct snapshotter *snapshotter, const char *name,
                         const struct snapshot_record *active, const char *parent,
                         const struct labels *labels, struct error **error)
{
    cleanup_snapshot_record struct snapshot_record record = { 0 };
    if (snapshot_store_find(snapshotter->store, active->info.name, &record, error) < 0 ||
        snapshot_name_free(snapshotter, name, error) < 0)
        return -1;
    if (record.id != active->id || record.info.kind != SNAPSHOT_ACTIVE)
        return error_set(error, ERROR_PRECONDITION, "snapshot '%s' is not active",
                         active->info.name);
    if (choose_parent(snapshotter, &record, parent, error) < 0) return -1;
    struct snapshot_record committed = record;
    struct timespec now = snapshot_time_now();
    committed.usage = active->usage;
    committed.info =
        (struct snapshot_info){ SNAPSHOT_COMMITTED, (char *)name, NULL, *labels, now, now };
    return snapshot_store_update(snapshotter->store, &committed, error);
}

int snapshotter_commit(struct snapshotter *snapshotter, const char *name, const char *key,
                       const char *parent, const struct labels *labels, struct error **error)
{
    cleanup_snapshot_record struct snapshot_record active = { 0 };
    if (snapshot_name_check(name, error) < 0 ||
        snapshot_store_find(snapshotter->store, key, &active, error) < 0)
        return -1;
    /* This may take long, and nobody shall wait for it. */
    if (active.info.kind == SNAPSHOT_ACTIVE &&
        usage_of_directory(snapshotter, active.id, &active.usage, error) < 0)
        return -1;
    if (snapshot_store_begin(snapshotter->store, error) < 0) return -1;
    if (commit_record(snapshotter, name, &active, parent, labels, error) < 0) {
        snapshot_store_rollback(snapshotter->store);
        return error_prefix(error, "commit snapshot '%s'", key);
    }
    if (snapshot_store_commit(snapshotter->store, error) < 0) return -1;
    mapped_views_remove(snapshotter->views, active.id);
    return 0;
}

/* In a transaction; `ret` is what was removed. */
static int delete_record(struct snapshotter *snapshotter, const char *key,
                         struct snapshot_record *ret, struct error **error)
{
    if (snapshot_store_find(snapshotter->store, key, ret, error) < 0) return -1;
    int children = snapshot_store_has_children(snapshotter->store, ret->id, error);
    if (children < 0) return -1;
    if (children) return error_set(error, ERROR_PRECONDITION, "it has children");
    return snapshot_store_delete(snapshotter->store, ret->id, error);
}

int snapshotter_remove(struct snapshotter *snapshotter, const char *key, struct error **error)
{
    cleanup_snapshot_record struct snapshot_record record = { 0 };
    cleanup_error struct error *failure = NULL;
    if (snapshot_store_begin(snapshotter->store, error) < 0) return -1;
    if (delete_record(snapshotter, key, &record, error) < 0) {
        snapshot_store_rollback(snapshotter->store);
        return error_prefix(error, "remove snapshot '%s'", key);
    }
    if (snapshot_store_commit(snapshotter->store, error) < 0) return -1;
    mapped_views_remove(snapshotter->views, record.id);
    /* The name is free; what is left on the disk is removed by the next cleanup. */
    if (snapshot_directories_remove(snapshotter->directories, record.id, &failure) < 0)
        log_warning("%s", error_message(failure));
    snapshot_lazy_release(snapshotter, record.use.image);
    return 0;
}

/* Hands out what a record says. */
static struct snapshot_info take_info(struct snapshot_record *record)
{
    struct snapshot_info info = record->info;
    record->info = (struct snapshot_info){ 0 };
    return info;
}

int snapshotter_stat(struct snapshotter *snapshotter, const char *key, struct snapshot_info *ret,
                     struct error **error)
{
    struct snapshot_record record;
    if (snapshot_store_find(snapshotter->store, key, &record, error) < 0) return -1;
    *ret = take_info(&record);
    return 0;
}

static int replace_labels(struct labels *labels, const struct labels *by, struct error **error)
{
    labels_free(labels);
    return labels_copy(labels, by, error);
}

static int update_path(struct snapshot_record *record, const struct snapshot_info *info,
                       const char *path, struct error **error)
{
    static const char prefix[] = "labels.";
    if (strcmp(path, "labels") == 0)
        return replace_labels(&record->info.labels, &info->labels, error);
    if (strncmp(path, prefix, strlen(prefix)) != 0)
        return error_set(error, ERROR_INVALID, "the field '%s' of snapshot '%s' cannot be changed",
                         path, info->name);
    const char *key = path + strlen(prefix), *value = labels_get(&info->labels, key);
    return labels_set(&record->info.labels, key, value ? value : "", error);
}

/* In a transaction. */
static int update_record(struct snapshotter *snapshotter, const struct snapshot_info *info,
                         const char *const *paths, size_t path_count, struct snapshot_record *ret,
                         struct error **error)
{
    if (snapshot_store_find(snapshotter->store, info->name, ret, error) < 0) return -1;
    if (!path_count && replace_labels(&ret->info.labels, &info->labels, error) < 0) return -1;
    for (size_t i = 0; i < path_count; i++)
        if (update_path(ret, info, paths[i], error) < 0) return -1;
    ret->info.updated = snapshot_time_now();
    return snapshot_store_update(snapshotter->store, ret, error);
}

int snapshotter_update(struct snapshotter *snapshotter, const struct snapshot_info *info,
                       const char *const *paths, size_t path_count, struct snapshot_info *ret,
                       struct error **error)
{
    cleanup_snapshot_record struct snapshot_record record = { 0 };
    if (snapshot_store_begin(snapshotter->store, error) < 0) return -1;
    if (update_record(snapshotter, info, paths, path_count, &record, error) < 0) {
        snapshot_store_rollback(snapshotter->store);
        return -1;
    }
    if (snapshot_store_commit(snapshotter->store, error) < 0) return -1;
    *ret = take_info(&record);
    return 0;
}

static int visit_page(const struct filters *filters, struct snapshot_record *records, int count,
                      snapshotter_visit *visit, void *context, struct error **error)
{
    int result = 0;
    for (int i = 0; i < count; i++) {
        if (result == 0 && filters_match(filters, &records[i].info))
            result = visit(context, &records[i].info, error);
        snapshot_record_free(&records[i]);
    }
    return result;
}

/* By id, which a snapshot keeps for life: what is there throughout a walk is seen once. */
int snapshotter_list(struct snapshotter *snapshotter, const char *const *filter_texts,
                     size_t filter_count, snapshotter_visit *visit, void *context,
                     struct error **error)
{
    cleanup_filters struct filters *filters = NULL;
    if (filters_parse(&filters, filter_texts, filter_count, error) < 0) return -1;
    int64_t after = 0;
    for (;;) {
        struct snapshot_record records[PAGE];
        int count = snapshot_store_page(snapshotter->store, after, records, PAGE, error);
        if (count <= 0) return count;
        after = records[count - 1].id;
        if (visit_page(filters, records, count, visit, context, error) < 0) return -1;
    }
}

int snapshotter_cleanup(struct snapshotter *snapshotter, struct error **error)
{
    if (remove_leftovers(snapshotter, error) < 0) return -1;
    snapshot_directories_settle(snapshotter->directories);
    return 0;
}
