/*
 * Lazy images: what the snapshotter asks for (lazy_source.h), decided once an image and mounted by
 * the server process (node/node_client.h).
 *
 * Each image has a directory below the root, by its number: "image.json" says what it is, "rootfs"
 * is where it is mounted whole, "first-K" where the merge of its first K layers is, and "layer-K"
 * where what the Kth changes is (lazy_layers.h). The file is written before anything can refer to
 * the image, and an image that nothing uses is unmounted and its directory removed.
 */
#ifndef SLUICE_SNAPSHOTTER_LAZY_IMAGES_H
#define SLUICE_SNAPSHOTTER_LAZY_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "node/node_client.h"
#include "snapshotter/config.h"
#include "snapshotter/lazy_source.h"

/* An annotation of the image's manifest that containerd passes on as a label: the digest of the
 * image's index, so that the registry need not be asked which there are. */
#define LAZY_INDEX_LABEL "containerd.io/snapshot/sluice.index"

struct lazy_images;

/* All is borrowed and must outlive it. `directory` is made if missing. */
int lazy_images_open(struct lazy_images **ret, const char *directory, const struct config *config,
                     struct node_client *node, struct error **error);
/* Who waits for an image is told at once that sluiced is being stopped. NULL is fine. */
void lazy_images_stop(struct lazy_images *images);
/* What is mounted stays mounted. No call may be under way. NULL is fine. */
void lazy_images_free(struct lazy_images *images);

/* Before the source is started: images that are needed besides those of snapshots. */
int lazy_images_keep(struct lazy_images *images, const uint64_t *numbers, size_t count,
                     struct error **error);

/* Valid as long as it. */
const struct lazy_source *lazy_images_source(struct lazy_images *images);

/* Adds to a status: "images" (an object each, with "views": what `mounted`, the images of
 * node_client_status(), has of it), "ordinary" (images that are pulled ordinarily, and why),
 * "decisions" (how many of each kind since the start). -1: out of memory. */
int lazy_images_status(struct lazy_images *images, const json_t *mounted, json_t *status);

#endif
