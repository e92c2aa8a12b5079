/*
 * Which layers Podman and others of containers/storage have in use, by the names under which they
 * look for them, and how often: written down at each change, because they never tell again.
 * Functions may be called on any thread.
 */
#ifndef SLUICE_SNAPSHOTTER_LAYER_USES_H
#define SLUICE_SNAPSHOTTER_LAYER_USES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"
#include "snapshotter/lazy_source.h"

struct layer_uses;

/* Reads what the file at `path` has; one that is not there has none. */
int layer_uses_open(struct layer_uses **ret, const char *path, struct error **error);
void layer_uses_free(struct layer_uses *uses); /* NULL is fine */

/* What the blob of an image of this name was when its use began; false: it is not in use. */
bool layer_uses_find(struct layer_uses *uses, const char *image, const struct digest *blob,
                     struct lazy_use *ret);
/* Once more in use. `use` counts where it was not before. An error tells that it could not be
 * written down; it counts all the same. */
int layer_uses_add(struct layer_uses *uses, const char *image, const struct digest *blob,
                   const struct lazy_use *use, struct error **error);
/* Once less. *ret_unused is the number of an image of which no layer is in use any more, or 0. */
int layer_uses_drop(struct layer_uses *uses, const char *image, const struct digest *blob,
                    uint64_t *ret_unused, struct error **error);
/* The numbers of all images, in fresh memory; some may be there twice. NULL: out of memory. */
uint64_t *layer_uses_images(struct layer_uses *uses, size_t *ret_count);

#endif
