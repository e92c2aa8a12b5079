#include "snapshotter/layer_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "snapshotter/layer_store-internal.h"
#include "snapshotter/lazy_layers.h"

/* Lookups wait for decisions and mounts: of so many images at once. */
#define THREADS 16u

/* ---- which layers there are ---- */

bool layer_store_find(struct layer_store *store, const char *image, const struct digest *blob,
                      struct lazy_use *ret)
{
    cleanup_error struct error *error = NULL;
    /* What is in use stays what it is, whatever the name means by now. */
    if (layer_uses_find(store->uses, image, blob, ret)) return true;
    int result = lazy_layer_find(store->images, image, blob, ret, &error);
    if (result < 0)
        log_about(LOG_WARNING, image, "%s is pulled ordinarily: %s", image, error_message(error));
    return result > 0;
}

/* The numbers that containers/storage has for them (pkg/archive, Compression). */
static int compression_of(enum layer_kind kind)
{
    switch (kind) {
    case LAYER_GZIP:
        return 2;
    case LAYER_ZSTD:
        return 4;
    default:
        return 0;
    }
}

/* As containers/storage has a layer in its layers.json (layers.go, Layer). */
static char *info_of(const struct node_layer_answer *layer)
{
    char blob[DIGEST_TEXT_SIZE], stream[DIGEST_TEXT_SIZE];
    cleanup_json json_t *info = json_pack(
        "{s:s, s:I, s:s, s:I, s:i}", "compressed-diff-digest", digest_format(&layer->blob, blob),
        "compressed-size", (json_int_t)layer->blob_length, "diff-digest",
        digest_format(&layer->stream, stream), "diff-size", (json_int_t)layer->stream_length,
        "compression", compression_of(layer->kind));
    return info ? json_dumps(info, JSON_COMPACT) : NULL;
}

int layer_store_show(struct layer_store *store, const char *image, const struct digest *blob,
                     const struct lazy_use *use, struct store_layer *ret)
{
    char digest[DIGEST_TEXT_SIZE];
    struct lazy_use ignored;
    cleanup_error struct error *error = NULL;
    struct node_layer_answer layer;
    char *path = lazy_layer_path(store->images, use, &layer, &error);
    if (!path) {
        bool in_use = layer_uses_find(store->uses, image, blob, &ignored);
        log_about(LOG_WARNING, image, "layer %s of %s %s: %s", digest_format(blob, digest), image,
                  in_use ? "cannot be mounted" : "is pulled ordinarily", error_message(error));
        return in_use ? EIO : ENOENT;
    }
    *ret = (struct store_layer){ .path = path,
                                 .info = info_of(&layer),
                                 .blob_length = layer.blob_length };
    if (ret->info) return 0;
    free(path);
    return ENOMEM;
}

/* ---- what is told of their use ---- */

void layer_store_used(struct layer_store *store, const char *image, const struct digest *blob,
                      const struct lazy_use *use)
{
    cleanup_error struct error *error = NULL;
    if (!lazy_layers_used(store->images, use->image))
        log_about(LOG_WARNING, image,
                  "a layer of %s is used, which is gone; remove the image and pull it again",
                  image);
    if (layer_uses_add(store->uses, image, blob, use, &error) < 0)
        log_about(LOG_ERROR, image, "%s; after a restart, %s may have to be pulled again",
                  error_message(error), image);
}

void layer_store_unused(struct layer_store *store, const char *image, const struct digest *blob)
{
    cleanup_error struct error *error = NULL;
    uint64_t unused;
    if (layer_uses_drop(store->uses, image, blob, &unused, &error) < 0)
        log_about(LOG_ERROR, image, "%s; layers of %s may stay mounted", error_message(error),
                  image);
    if (unused) lazy_layers_unused(store->images, unused);
}

/* ---- start and end ---- */

int layer_store_open(struct layer_store **ret, const char *file, struct lazy_images *images,
                     struct error **error)
{
    struct layer_store *store = calloc(1, sizeof *store);
    size_t count;
    if (!store) return error_set_memory(error);
    store->images = images;
    pthread_mutex_init(&store->lock, NULL);
    TAILQ_INIT(&store->places);
    cleanup_free uint64_t *numbers = NULL;
    int result = layer_uses_open(&store->uses, file, error);
    if (result == 0 && !(numbers = layer_uses_images(store->uses, &count)))
        result = error_set_memory(error);
    if (result == 0) result = lazy_images_keep(images, numbers, count, error);
    if (result < 0)
        layer_store_free(store);
    else
        *ret = store;
    return result;
}

int layer_store_start(struct layer_store *store, const char *path, struct error **error)
{
    const struct fuse_server_options options = { .name = path, .threads = THREADS };
    char *kept = strdup(path);
    if (!kept) return error_set_memory(error);
    int connection = layer_store_attach(path, error);
    if (connection < 0) {
        free(kept);
        return error_prefix(error, "layer store");
    }
    store->path = kept;
    if (fuse_server_new(&store->server, connection, &layer_store_operations, store, &options,
                        error) < 0 ||
        fuse_server_start(store->server, error) < 0)
        return error_prefix(error, "layer store");
    log_info("layers of lazy images are in '%s' for Podman and CRI-O", path);
    return 0;
}

void layer_store_free(struct layer_store *store)
{
    if (!store) return;
    /* First, so that nobody begins to wait for an answer. */
    if (store->path) layer_store_detach(store->path);
    fuse_server_free(store->server);
    layer_store_forget_all(store);
    layer_uses_free(store->uses);
    pthread_mutex_destroy(&store->lock);
    free(store->path);
    free(store);
}
