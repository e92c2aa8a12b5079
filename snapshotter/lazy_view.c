#include <dirent.h>
#include <errno.h>
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
#define RECORD     "image.json"
#define RESTORE_MS 60000u

char *lazy_view_directory(const struct lazy_images *images, uint64_t number)
{
    return format_text("%s/%" PRIu64, images->directory, number);
}

char *lazy_view_record_path(const struct lazy_images *images, uint64_t number)
{
    return format_text("%s/%" PRIu64 "/" RECORD, images->directory, number);
}

char *lazy_view_path(const struct lazy_images *images, uint64_t number, uint32_t layers,
                     uint32_t all)
{
    return layers == all
               ? format_text("%s/%" PRIu64 "/" WHOLE, images->directory, number)
               : format_text("%s/%" PRIu64 "/" FIRST "%u", images->directory, number, layers);
}

/* ---- mounting ---- */

/* One for each view of each image. */
static uint64_t view_id(const struct lazy_view *view)
{
    return view->number * (LAZY_LAYERS_MAX + 1) + (view->layers == view->all ? 0 : view->layers);
}

uint64_t lazy_view_image(uint64_t id)
{
    return id / (LAZY_LAYERS_MAX + 1);
}

int lazy_view_open(struct lazy_images *images, const struct lazy_view *view, uint64_t timeout_ms,
                   struct node_image_answer *ret_answer, struct error **error)
{
    cleanup_free char *path = lazy_view_path(images, view->number, view->layers, view->all);
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
                   .pinned_index = view->index,
                   .least_trust = view->least_trust,
                   .front = config->lazy.front,
                   .no_profile = !config->lazy.profile,
                   .prefetch_limit = config->lazy.prefetch_limit,
                   .fill = config->lazy.fill,
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

/* How many layers a directory of this name shows; 0: the whole image; -1: it is none of ours. */
static int64_t layers_of_name(const char *name)
{
    if (strcmp(name, WHOLE) == 0) return 0;
    if (strncmp(name, FIRST, strlen(FIRST)) != 0) return -1;
    char *end;
    const char *digits = name + strlen(FIRST);
    unsigned long layers = strtoul(digits, &end, 10);
    return *digits >= '1' && *digits <= '9' && !*end && layers <= LAZY_LAYERS_MAX ? (int64_t)layers
                                                                                  : -1;
}

typedef void each_view(struct lazy_images *images, uint64_t number, uint32_t layers,
                       const char *path, void *context);

static void views_each(struct lazy_images *images, uint64_t number, each_view *each, void *context)
{
    cleanup_free char *directory = lazy_view_directory(images, number);
    DIR *entries = directory ? opendir(directory) : NULL;
    const struct dirent *entry;
    while (entries && (entry = readdir(entries))) {
        int64_t layers = layers_of_name(entry->d_name);
        if (layers < 0) continue;
        cleanup_free char *path = format_text("%s/%s", directory, entry->d_name);
        if (path) each(images, number, (uint32_t)layers, path, context);
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

static void restore(struct lazy_images *images, uint64_t number, uint32_t layers, const char *path,
                    void *context)
{
    const struct lazy_image *image = context;
    const struct lazy_record *record = &image->record;
    cleanup_error struct error *error = NULL;
    struct lazy_view view = { .number = number,
                              .name = record->name,
                              .reference = record->reference,
                              .index = &record->index,
                              .least_trust = TRUST_REFERRER,
                              .layers = layers ? layers : record->layer_count,
                              .all = record->layer_count };
    if (!is_mounted(path)) return;
    if (lazy_view_open(images, &view, RESTORE_MS, NULL, &error) < 0)
        log_error("%s was mounted, and cannot be served now: %s; containers that use it get "
                  "errors until it can",
                  record->name, error_message(error));
}

void lazy_view_restore(struct lazy_images *images, struct lazy_image *image)
{
    views_each(images, image->number, restore, image);
}

/* ---- the end ---- */

static void clear(struct lazy_images *images, uint64_t number, uint32_t layers, const char *path,
                  void *context)
{
    (void)context;
    cleanup_error struct error *error = NULL;
    struct lazy_view view = { .number = number, .layers = layers };
    node_client_close(images->node, view_id(&view));
    /* What the server does not know of, because it was mounted by one before it. */
    while (is_mounted(path) && unmount_tree(path, true, &error) == 0)
        continue;
    if (error) log_warning("%s", error_message(error));
    if (rmdir(path) < 0) log_warning("remove '%s': %s", path, strerror(errno));
}

void lazy_view_clear(struct lazy_images *images, uint64_t number)
{
    cleanup_free char *directory = lazy_view_directory(images, number);
    cleanup_free char *record = lazy_view_record_path(images, number);
    views_each(images, number, clear, NULL);
    if (record) unlink(record);
    if (directory && rmdir(directory) < 0 && errno != ENOENT)
        log_warning("remove '%s': %s", directory, strerror(errno));
}
