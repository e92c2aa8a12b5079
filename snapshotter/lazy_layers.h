/*
 * Layers of lazy images one by one, for who stacks them: what each changes in the merge of those
 * below it (index/merge.h, merge_difference()), mounted.
 */
#ifndef SLUICE_SNAPSHOTTER_LAZY_LAYERS_H
#define SLUICE_SNAPSHOTTER_LAZY_LAYERS_H

#include "base/digest.h"
#include "base/error.h"
#include "node/node_client.h"
#include "snapshotter/lazy_source.h"

struct lazy_images;

/* 1: `blob` is a layer of the image of this name, which is lazy: `ret` is the layers up to it; 0:
 * the image is not, or has the blob twice, so that nobody knows which is meant, or not at all.
 * Waits for the decision, for the budget at the most. */
int lazy_layer_find(struct lazy_images *images, const char *image_name, const struct digest *blob,
                    struct lazy_use *ret, struct error **error);
/* Sees to it that it is mounted: the absolute path of its root in fresh memory, and (not NULL) what
 * is known of its blob. Waits. */
char *lazy_layer_path(struct lazy_images *images, const struct lazy_use *use,
                      struct node_layer_answer *ret, struct error **error);
/* The image stays until lazy_layers_unused(); false: it has gone. Does not wait. */
bool lazy_layers_used(struct lazy_images *images, uint64_t image);
/* No layer of the image is used by itself. */
void lazy_layers_unused(struct lazy_images *images, uint64_t image);

#endif
