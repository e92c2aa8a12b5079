#include "snapshotter/lazy_layers.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "snapshotter/lazy_images-internal.h"

/* To mount a layer of an image whose index is on the node. */
#define LAYER_MS 30000u

/* Up to which layer; 0: the image does not have the blob once. */
static uint32_t find_blob(const struct lazy_record *record, const struct digest *blob)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < record->layer_count; i++) {
        if (!digest_equal(&record->layers[i].blob, blob)) continue;
        if (found) return 0;
        found = i + 1;
    }
    return found;
}

int lazy_layer_find(struct lazy_images *images, const char *image_name, const struct digest *blob,
                    struct lazy_use *ret, struct error **error)
{
    const struct labels none = { 0 };
    const struct lazy_layer layer = { .image_name = image_name, .layer = *blob, .labels = &none };
    uint64_t number;
    if (!images->config->lazy.enabled) return 0;
    int result = decision_make(images, &layer, &number, error);
    if (result <= 0) return result;
    pthread_mutex_lock(&images->lock);
    const struct lazy_image *image = lazy_image_find(images, number);
    *ret =
        (struct lazy_use){ .image = number, .layers = image ? find_blob(&image->record, blob) : 0 };
    pthread_mutex_unlock(&images->lock);
    return ret->layers > 0;
}

char *lazy_layer_path(struct lazy_images *images, const struct lazy_use *use,
                      struct node_layer_answer *ret, struct error **error)
{
    struct node_image_answer answer;
    char *path = NULL;
    struct lazy_image *image = lazy_image_get(images, use->image, ERROR_NOT_FOUND, error);
    if (!image) return NULL;
    struct lazy_view view = lazy_view_of(image, use->layers);
    view.difference = true;
    if (lazy_view_open(images, &view, LAYER_MS, &answer, error) == 0) {
        if (answer.layer_count != use->layers)
            error_set(error, ERROR_INVALID, "%s has other layers now", image->record.name);
        else if (!(path = lazy_view_path(images, &view)))
            error_set_memory(error);
        else if (ret)
            *ret = answer.layers[use->layers - 1];
        node_image_answer_free(&answer);
    }
    lazy_image_let_go(images, image);
    return path;
}

bool lazy_layers_used(struct lazy_images *images, uint64_t number)
{
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, number);
    if (image) image->users |= LAZY_USED_BY_LAYERS;
    pthread_mutex_unlock(&images->lock);
    return image != NULL;
}

void lazy_layers_unused(struct lazy_images *images, uint64_t number)
{
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, number);
    if (image) lazy_image_unuse(images, image, LAZY_USED_BY_LAYERS);
    pthread_mutex_unlock(&images->lock);
}
