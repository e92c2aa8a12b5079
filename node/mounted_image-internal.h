/* What the files of a mounted image share. */
#ifndef SLUICE_NODE_MOUNTED_IMAGE_INTERNAL_H
#define SLUICE_NODE_MOUNTED_IMAGE_INTERNAL_H

#include <pthread.h>

#include "node/mounted_image.h"
#include "node/node_image.h"
#include "node/profile_player.h"
#include "node/record_file.h"

struct mounted_image {
    struct node *node;
    struct mounted_image_options options;
    struct node_image image;
    bool loaded;
    struct cache_user *use;
    struct shared_layer **shares;
    struct layer_device **devices;
    size_t device_count;
    struct device_reader reader;
    struct front *front;
    struct profile_player *profile; /* or NULL */
    struct record_file *record;     /* or NULL */
    struct fill *fill;              /* NULL: it is off */
    pthread_mutex_t status_lock;
    bool stopping; /* under status_lock: what a status tells of is going away */
};

#endif
