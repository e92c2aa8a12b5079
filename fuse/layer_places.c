/*
 * Where a layer is asked for: the repositories of the images that have it, best first. Whoever
 * refuses a range, or does not have the layer any more, is passed over; who has answered in its
 * stead is asked first from then on.
 */
#include <stdlib.h>
#include <string.h>

#include "fuse/layer_device-internal.h"
#include "fuse/layer_places-internal.h"

struct layer_place *layer_place_new(const char *registry, const char *repository)
{
    size_t first = strlen(registry) + 1, second = strlen(repository) + 1;
    struct layer_place *place = malloc(sizeof *place + first + second);
    if (!place) return NULL;
    place->next = NULL;
    place->repository = place->registry + first;
    memcpy(place->registry, registry, first);
    memcpy(place->repository, repository, second);
    return place;
}

void layer_places_free(struct layer_device *device)
{
    struct layer_place *place = atomic_load(&device->place);
    while (place) {
        struct layer_place *next = place->next;
        free(place);
        place = next;
    }
}

const struct layer_place *layer_place_get(const struct layer_device *device, unsigned position)
{
    const struct layer_place *place = device_place(device);
    while (place && position-- > 0)
        place = place->next;
    return place;
}

void layer_place_prefer(struct layer_device *device, const struct layer_place *preferred)
{
    struct layer_place *first = atomic_load(&device->place), *place = first;
    while (place->next && place->next != preferred)
        place = place->next;
    if (!place->next) return; /* it is the first */
    struct layer_place *moved = place->next;
    place->next = moved->next;
    moved->next = first;
    atomic_store_explicit(&device->place, moved, memory_order_release);
}

/* Adds it behind all others if it is not there. NULL: out of memory. */
static const struct layer_place *find_or_add(struct layer_device *device, const char *registry,
                                             const char *repository)
{
    struct layer_place *place = atomic_load(&device->place);
    for (;; place = place->next) {
        if (strcmp(place->registry, registry) == 0 && strcmp(place->repository, repository) == 0)
            return place;
        if (!place->next) break;
    }
    return place->next = layer_place_new(registry, repository);
}

void layer_device_add_place(struct layer_device *device, const char *registry,
                            const char *repository)
{
    struct actions actions;
    data_path_enter(device->path, &actions);
    (void)find_or_add(device, registry, repository);
    data_path_leave(device->path, &actions);
}

void layer_device_move(struct layer_device *device, const char *registry, const char *repository)
{
    struct actions actions;
    data_path_enter(device->path, &actions);
    const struct layer_place *place = find_or_add(device, registry, repository);
    if (place) layer_place_prefer(device, place);
    data_path_leave(device->path, &actions);
}
