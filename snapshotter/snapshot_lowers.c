#include "snapshotter/snapshot_lowers-internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "snapshotter/mapped_views-internal.h"

void snapshot_lowers_free(struct snapshot_lowers *lowers)
{
    for (size_t i = 0; i < lowers->count; i++)
        free(lowers->paths[i]);
    free(lowers->paths);
    *lowers = (struct snapshot_lowers){ 0 };
}

static char *mounted_path(const struct lazy_source *lazy, const struct lazy_use *use,
                          struct error **error)
{
    if (lazy) return lazy->path(lazy->context, use, error);
    error_set(error, ERROR_UNREACHABLE, "its image is lazy, and lazy images are switched off");
    return NULL;
}

static char *lazy_path(struct snapshotter *snapshotter, const struct snapshot_record *keeper,
                       const struct lazy_use *use, struct error **error)
{
    struct error *reason = NULL;
    char *path = mounted_path(snapshotter->lazy, use, &reason);
    if (path) return path;
    if (snapshot_store_has_id(snapshotter->store, keeper->id, NULL) != 0) {
        error_move(error, reason);
        return NULL;
    }
    error_free(reason);
    error_set(error, ERROR_NOT_FOUND, "snapshot '%s' does not exist", keeper->info.name);
    return NULL;
}

int snapshot_lowers_find(struct snapshotter *snapshotter, const struct snapshot_record *keeper,
                         const struct snapshot_chain *chain, struct snapshot_lowers *ret,
                         struct error **error)
{
    *ret = (struct snapshot_lowers){ .paths = calloc(chain->count + 1, sizeof *ret->paths) };
    if (!ret->paths) return error_set_memory(error);
    for (; ret->count < chain->count; ret->count++) {
        char *path = snapshot_directories_fs(snapshotter->directories, chain->ids[ret->count]);
        if (!path) return error_set_memory(error);
        ret->paths[ret->count] = path;
    }
    if (!chain->use.image) return 0;
    char *path = lazy_path(snapshotter, keeper, &chain->use, error);
    if (!path) return -1;
    ret->paths[ret->count++] = path;
    ret->lazy = true;
    return 0;
}

static int replace(char **path, char *by, struct error **error)
{
    if (!by) return error_set_memory(error);
    free(*path);
    *path = by;
    return 0;
}

/* One mount for all ordinary snapshots, however many are below this one. */
static int map_ordinary(struct snapshotter *snapshotter, int64_t id, const char *users,
                        const char *groups, struct snapshot_lowers *lowers, size_t count,
                        struct error **error)
{
    const char *all = snapshot_directories_all(snapshotter->directories);
    cleanup_free char *shown =
        mapped_views_show(snapshotter->views, id, "ordinary", all, users, groups, error);
    if (!shown) return -1;
    for (size_t i = 0; i < count; i++) {
        char *path = format_text("%s%s", shown, lowers->paths[i] + strlen(all));
        if (replace(&lowers->paths[i], path, error) < 0) return -1;
    }
    return 0;
}

int snapshot_lowers_map(struct snapshotter *snapshotter, int64_t id, const char *users,
                        const char *groups, struct snapshot_lowers *lowers, struct error **error)
{
    size_t ordinary = lowers->count - lowers->lazy;
    if (ordinary > 0 && map_ordinary(snapshotter, id, users, groups, lowers, ordinary, error) < 0)
        return -1;
    if (!lowers->lazy) return 0;
    char **lazy = &lowers->paths[ordinary];
    char *shown = mapped_views_show(snapshotter->views, id, "lazy", *lazy, users, groups, error);
    return shown ? replace(lazy, shown, error) : -1;
}
