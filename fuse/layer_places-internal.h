/* Where a layer is asked for. Under the data path's lock unless said otherwise. */
#ifndef SLUICE_FUSE_LAYER_PLACES_INTERNAL_H
#define SLUICE_FUSE_LAYER_PLACES_INTERNAL_H

struct layer_device;

/* Requests and messages look at one without the lock, so one that is not used any more stays until
 * the device is freed. */
struct layer_place {
    struct layer_place *next; /* to be asked after it; under the lock */
    char *repository;
    char registry[];
};

/* Without the lock. NULL: out of memory. */
struct layer_place *layer_place_new(const char *registry, const char *repository);
void layer_places_free(struct layer_device *device);
/* The first, and those behind it; NULL: there are no more. */
const struct layer_place *layer_place_get(const struct layer_device *device, unsigned position);
/* It is asked first from now on. */
void layer_place_prefer(struct layer_device *device, const struct layer_place *preferred);

#endif
