/*
 * Devices of layers, each once in a process: images that have a layer, by the same chunk table,
 * share its device, so that its chunks are fetched, verified and remembered once.
 */
#ifndef SLUICE_NODE_SHARED_LAYERS_H
#define SLUICE_NODE_SHARED_LAYERS_H

#include "base/error.h"
#include "fuse/layer_device.h"
#include "node/node_image.h"

struct shared_layers;

/* The path is borrowed. */
int shared_layers_new(struct shared_layers **ret, struct data_path *path, struct error **error);
/* When no layer is open. NULL is fine. */
void shared_layers_free(struct shared_layers *layers);

/* How many devices are open. */
size_t shared_layers_count(struct shared_layers *layers);

/* One image's share of a device. */
struct shared_layer;

/* Layer `layer` of the image, from 0. The image's chunk table may become another image's, which is
 * the same. */
int shared_layer_open(struct shared_layers *layers, struct node_image *image, size_t layer,
                      struct shared_layer **ret, struct error **error);
struct layer_device *shared_layer_device(const struct shared_layer *share);
/* How many shares the device has. */
size_t shared_layer_shares(const struct shared_layer *share);
/* The last share closes the device: layer_device_close(). NULL is fine. */
void shared_layer_close(struct shared_layer *share);

#endif
