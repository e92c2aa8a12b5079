/*
 * An additional layer store for Podman, CRI-O and others of containers/storage: a file system in
 * which they look for a layer before they pull it, as "BASE64 OF THE IMAGE'S NAME/DIGEST OF THE
 * BLOB" (containers/storage, drivers/overlay/overlay.go). A layer of a lazy image is a directory
 * there, with
 *
 *   diff  a symbolic link to where it is mounted, for overlayfs to stack
 *   info  what containers/storage writes down of it, as JSON
 *   blob  what it would have pulled
 *
 * To make "use" there says that the layer is used, to remove the directory that it is not; both
 * fail with ENOENT, which means that it was understood.
 */
#ifndef SLUICE_SNAPSHOTTER_LAYER_STORE_H
#define SLUICE_SNAPSHOTTER_LAYER_STORE_H

#include "base/error.h"
#include "snapshotter/lazy_images.h"

struct layer_store;

/* Reads from `file` which layers are in use, and has their images kept; before the images' source
 * is started. `images` is borrowed. */
int layer_store_open(struct layer_store **ret, const char *file, struct lazy_images *images,
                     struct error **error);
/* Mounts it on `path`, which is made where it is missing, and answers, on threads of its own. */
int layer_store_start(struct layer_store *store, const char *path, struct error **error);
/* Unmounts it; what is in use stays so. NULL is fine. */
void layer_store_free(struct layer_store *store);

#endif
