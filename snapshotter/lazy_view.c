#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/mount_table.h"
#include "fuse/unmount.h"
#include "snapshotter/lazy_images-internal.h"

#define WHOLE      "rootfs"
#define FIRST      "first-"
#define LAYER      "layer-"
#define RECORD     "image.json"
#define RESTORE_MS 60000u
/* In numbers of mounts, of which the holder is told as JSON (base/json.h: up to 2^53). */
#define ID_OF_DIFFERENCE (1ull << 52)

char *lazy_view_directory(const struct lazy_images *images, uint64_t number)
{
    return format_text("%s/%" PRIu64, images->directory, number);
}

char *lazy_view_record_path(const struct lazy_images *images, uint64_t number)
{
    return format_text("%s/%" PRIu64 "/" RECORD, images->directory, number);
}

char *lazy_view_path(const struct lazy_images *images, const struct lazy_view *view)
{
    if (!view->difference && view->layers == view->all)
        return format_text("%s/%" PRIu64 "/" WHOLE, images->directory, view->number);
    return format_text("%s/%" PRIu64 "/%s%u", images->directory, view->number,
                       view->difference ? LAYER : FIRST, view->layers);
}

struct lazy_view lazy_view_of(const struct lazy_image *image, uint32_t layers)
{
    const struct lazy_record *record = &image->record;
    return (struct lazy_view){ .number = image->number,
                               .name = record->name,
                               .reference = record->reference,
                               .index = &record->index,
                               .least_trust = TRUST_REFERRER,
                               .layers = layers,
                               .all = record->layer_count };
}

/* ---- mounting ---- */

/* One for each view of each image. */
static uint64_t view_id(const struct lazy_view *view)
{
    if (view->difference)
        return ID_OF_DIFFERENCE | (view->number * (LAZY_LAYERS_MAX + 1) + view->layers);
    return view->number * (LAZY_LAYERS_MAX + 1) + (view->layers == view->all ? 0 : view->layers);
}

uint64_t lazy_view_image(uint64_t id)
{
    return (id & ~ID_OF_DIFFERENCE) / (LAZY_LAYERS_MAX + 1);
}

uint32_t lazy_view_layers(uint64_t id)
{
    return (id & ~ID_OF_DIFFERENCE) % (LAZY_LAYERS_MAX + 1);
}

int lazy_view_open(struct lazy_images *images, const struct lazy_view *view, uint64_t timeout_ms,
                   struct node_image_answer *ret_answer, struct error **error)
{
    cleanup_free char *path = lazy_view_path(images, view);
    if (!path) return error_set_memory(error);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_set_errno(error, errno, "make '%s'", path);
    struct node_image_answer answer;
    const struct config *config = images->config;
    /* What containers may do with what they find is up to overlayfs and runc; nobody else gets
     * there. */
    const struct node_image_request request = {
        .id = view_id(view),
        .allow_suid = true,
        .allow_devices = true,
        .image = { .reference = view->reference,
                   .mountpoint = path,
                   .layers = view->layers == view->all ? 0 : view->layers,
                   .difference = view->difference,
                   .pinned_index = view->index,
                   .least_trust = view->least_trust,
                   .front = config->lazy.front,
                   .no_profile = !config->lazy.profile || view->difference,
                   .prefetch_limit = config->lazy.prefetch_limit,
                   /* The whole image does that for its layers. */
                   .fill = view->difference ? FILL_OFF : config->lazy.fill,
                   .fill_rate = config->lazy.fill_rate },
    };
    if (node_client_open(images->node, &request, (unsigned)timeout_ms, &answer, error) < 0)
        return -1;
    lazy_image_add_keys(images, view->number, &answer);
    if (ret_answer)
        *ret_answer = answer;
    else
        node_image_answer_free(&answer);
    return 0;
}

/* ---- what is there ---- */

/* Which view of an image a directory of this name is: 0 for "rootfs" is all layers. False: it is
 * none of ours. */
static bool view_of_name(const char *name, struct lazy_view *view)
{
    *view = (struct lazy_view){ .number = view->number };
    if (strcmp(name, WHOLE) == 0) return true;
    view->difference = strncmp(name, LAYER, strlen(LAYER)) == 0;
    const char *prefix = view->difference ? LAYER : FIRST;
    if (strncmp(name, prefix, strlen(prefix)) != 0) return false;
    char *end;
    const char *digits = name + strlen(prefix);
    unsigned long layers = strtoul(digits, &end, 10);
    view->layers = (uint32_t)layers;
    return *digits >= '1' && *digits <= '9' && !*end && layers <= LAZY_LAYERS_MAX;
}

typedef void each_view(struct lazy_images *images, const struct lazy_view *view, const char *path,
                       void *context);

static void views_each(struct lazy_images *images, uint64_t number, each_view *each, void *context)
{
    cleanup_free char *directory = lazy_view_directory(images, number);
    DIR *entries = directory ? opendir(directory) : NULL;
    const struct dirent *entry;
    while (entries && (entry = readdir(entries))) {
        struct lazy_view view = { .number = number };
        if (!view_of_name(entry->d_name, &view)) continue;
        cleanup_free char *path = format_text("%s/%s", directory, entry->d_name);
        if (path) each(images, &view, path, context);
    }
    if (entries) closedir(entries);
}

static bool is_mounted(const char *path)
{
    bool found;
    struct mount_entry entry;
    return mount_table_find(path, &found, &entry, NULL) == 0 && found;
}

/* ---- after a start ---- */

static void restore(struct lazy_images *images, const struct lazy_view *found, const char *path,
                    void *context)
{
    const struct lazy_image *image = context;
    const struct lazy_record *record = &image->record;
    cleanup_error struct error *error = NULL;
    struct lazy_view view =
        lazy_view_of(image, found->layers ? found->layers : record->layer_count);
    view.difference = found->difference;
    if (!is_mounted(path)) return;
    if (!node_client_has(images->node, view_id(&view)))
        log_about(LOG_ERROR, record->name,
                  "%s was mounted, and nobody has kept its connection: containers that have used "
                  "it get errors; start them anew",
                  record->name);
    if (lazy_view_open(images, &view, RESTORE_MS, NULL, &error) < 0)
        log_about(LOG_ERROR, record->name,
                  "%s was mounted, and cannot be served now: %s; containers that use it get "
                  "errors until it can",
                  record->name, error_message(error));
}

void lazy_view_restore(struct lazy_images *images, struct lazy_image *image)
{
    views_each(images, image->number, restore, image);
}

/* ---- the end ---- */

static void clear(struct lazy_images *images, const struct lazy_view *view, const char *path,
                  void *context)
{
    (void)context;
    cleanup_error struct error *error = NULL;
    node_client_close(images->node, view_id(view));
    /* What the server does not know of, because it was mounted by one before it. */
    while (is_mounted(path) && unmount_tree(path, true, &error) == 0)
        continue;
    if (error) log_warning("%s", error_message(error));
    if (rmdir(path) < 0) log_warning("remove '%s': %s", path, strerror(errno));
}

/* The record, and what somebody who was killed has begun to write of one. */
static void remove_files(const char *directory)
{
    DIR *entries = opendir(directory);
    const struct dirent *entry;
    while (entries && (entry = readdir(entries)))
        unlinkat(dirfd(entries), entry->d_name, 0); /* not of directories, which may be mounted */
    if (entries) closedir(entries);
}

void lazy_view_clear(struct lazy_images *images, uint64_t number)
{
    cleanup_free char *directory = lazy_view_directory(images, number);
    views_each(images, number, clear, NULL);
    if (directory) remove_files(directory);
    if (directory && rmdir(directory) < 0 && errno != ENOENT)
        log_warning("remove '%s': %s", directory, strerror(errno));
}
