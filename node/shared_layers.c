#include "node/shared_layers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/cleanup.h"

struct open_layer {
    LIST_ENTRY(open_layer) link;
    struct shared_layers *layers;
    struct digest table_digest;
    struct chunk_table *table;
    struct layer_device *device;
    LIST_HEAD(, shared_layer) shares; /* the newest first */
};

struct shared_layer {
    LIST_ENTRY(shared_layer) link;
    struct open_layer *of;
    char *registry, *repository; /* where this image has the layer */
};

struct shared_layers {
    struct data_path *path;
    pthread_mutex_t lock;
    LIST_HEAD(, open_layer) open;
};

int shared_layers_new(struct shared_layers **ret, struct data_path *path, struct error **error)
{
    struct shared_layers *layers = calloc(1, sizeof *layers);
    if (!layers) return error_set_memory(error);
    layers->path = path;
    pthread_mutex_init(&layers->lock, NULL);
    LIST_INIT(&layers->open);
    *ret = layers;
    return 0;
}

void shared_layers_free(struct shared_layers *layers)
{
    if (!layers) return;
    pthread_mutex_destroy(&layers->lock);
    free(layers);
}

size_t shared_layers_count(struct shared_layers *layers)
{
    const struct open_layer *entry;
    size_t count = 0;
    pthread_mutex_lock(&layers->lock);
    LIST_FOREACH(entry, &layers->open, link)
    count++;
    pthread_mutex_unlock(&layers->lock);
    return count;
}

/* ---- opening ---- */

static struct open_layer *find(struct shared_layers *layers, const struct digest *table_digest)
{
    struct open_layer *entry;
    LIST_FOREACH(entry, &layers->open, link)
    if (digest_equal(&entry->table_digest, table_digest)) return entry;
    return NULL;
}

static struct open_layer *open_new(struct shared_layers *layers, const struct node_image *image,
                                   size_t layer, struct error **error)
{
    const struct index_layer *part = &image->artifact.layers[layer];
    struct layer_device_source source = {
        .registry = image->image.repository.registry,
        .repository = image->image.repository.name,
        .table = image->tables[layer],
        .table_digest = part->chunks.content_digest,
        .windows_digest = part->windows.digest,
    };
    struct open_layer *entry = calloc(1, sizeof *entry);
    if (!entry) {
        error_set_memory(error);
        return NULL;
    }
    if (layer_device_open(layers->path, &source, &entry->device, error) < 0) {
        free(entry);
        return NULL;
    }
    entry->layers = layers;
    entry->table_digest = source.table_digest;
    entry->table = chunk_table_share(image->tables[layer]);
    LIST_INIT(&entry->shares);
    LIST_INSERT_HEAD(&layers->open, entry, link);
    return entry;
}

/* The tables are the same; one of them takes half of the memory. */
static void join(const struct open_layer *entry, struct node_image *image, size_t layer)
{
    layer_device_add_place(entry->device, image->image.repository.registry,
                           image->image.repository.name);
    if (image->tables[layer] == entry->table) return;
    chunk_table_free(image->tables[layer]);
    image->tables[layer] = chunk_table_share(entry->table);
}

static struct shared_layer *share_new(const struct node_image *image)
{
    struct shared_layer *share = calloc(1, sizeof *share);
    if (!share) return NULL;
    share->registry = strdup(image->image.repository.registry);
    share->repository = strdup(image->image.repository.name);
    if (share->registry && share->repository) return share;
    free(share->registry);
    free(share->repository);
    free(share);
    return NULL;
}

static void share_free(struct shared_layer *share)
{
    free(share->registry);
    free(share->repository);
    free(share);
}

int shared_layer_open(struct shared_layers *layers, struct node_image *image, size_t layer,
                      struct shared_layer **ret, struct error **error)
{
    struct shared_layer *share = share_new(image);
    if (!share) return error_set_memory(error);
    pthread_mutex_lock(&layers->lock);
    struct open_layer *entry = find(layers, &image->artifact.layers[layer].chunks.content_digest);
    if (entry)
        join(entry, image, layer);
    else
        entry = open_new(layers, image, layer, error);
    if (entry) {
        share->of = entry;
        LIST_INSERT_HEAD(&entry->shares, share, link);
    }
    pthread_mutex_unlock(&layers->lock);
    if (!entry) {
        share_free(share);
        return -1;
    }
    *ret = share;
    return 0;
}

struct layer_device *shared_layer_device(const struct shared_layer *share)
{
    return share->of->device;
}

size_t shared_layer_shares(const struct shared_layer *share)
{
    const struct shared_layer *other;
    size_t count = 0;
    pthread_mutex_lock(&share->of->layers->lock);
    LIST_FOREACH(other, &share->of->shares, link)
    count++;
    pthread_mutex_unlock(&share->of->layers->lock);
    return count;
}

/* ---- closing ---- */

/* True: it was the last. Else the device goes on with where another image has the layer: the one
 * that ends may be the one whose credentials or repository are gone. */
static bool leave(struct shared_layer *share)
{
    struct open_layer *entry = share->of;
    LIST_REMOVE(share, link);
    const struct shared_layer *other = LIST_FIRST(&entry->shares);
    if (other) {
        layer_device_move(entry->device, other->registry, other->repository);
        return false;
    }
    LIST_REMOVE(entry, link);
    return true;
}

void shared_layer_close(struct shared_layer *share)
{
    if (!share) return;
    struct open_layer *entry = share->of;
    struct shared_layers *layers = entry->layers;
    pthread_mutex_lock(&layers->lock);
    bool last = leave(share);
    pthread_mutex_unlock(&layers->lock);
    share_free(share);
    if (!last) return;
    layer_device_close(entry->device);
    chunk_table_free(entry->table);
    free(entry);
}
