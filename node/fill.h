/*
 * Fill: the rest of an image comes in the background, behind what readers and
 * profiles want, and when a layer is complete it is read back, checked and
 * sealed (node/image_check.h). An index that does not tell the truth is
 * not believed any further.
 */
#ifndef SLUICE_NODE_FILL_H
#define SLUICE_NODE_FILL_H

#include "base/json.h"
#include "fuse/layer_device.h"
#include "node/node_image.h"

enum fill_mode {
    FILL_OFF,
    FILL_IDLE, /* while no reader has waited for the registry for a second */
    FILL_NOW,
};
const char *fill_mode_name(enum fill_mode mode);
int fill_mode_parse(enum fill_mode *ret, const char *text, struct error **error);

struct fill_options {
    enum fill_mode mode;
    uint64_t bytes_per_second; /* of blobs; 0: not bounded */
    bool force;                /* an index that lies is reported, and served all the same */
    /* All borrowed, and must outlive the fill. */
    const struct node_image *node;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *const *devices; /* one a layer */
    struct registry_client *client;
    /* Everything is here and right; on any thread. May be NULL. */
    void (*complete)(void *context);
    /* Layer `layer` is not what this image should have there, though its bytes may be another's; on
     * any thread. */
    void (*refuse)(void *context, size_t layer);
    void *context;
};

struct fill;

int fill_start(struct fill **ret, const struct fill_options *options, struct error **error);
/* Before the devices are closed. Does not wait for the registry. NULL is fine. */
void fill_stop(struct fill *fill);
/* `fill` of a status (docs/man/sluice-status.1). NULL stands for a fill that is off. */
json_t *fill_status(struct fill *fill);

#endif
