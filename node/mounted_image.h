/*
 * One image that is mounted and served: its index, its layers' devices, its front door, its profile
 * and its fill.
 */
#ifndef SLUICE_NODE_MOUNTED_IMAGE_H
#define SLUICE_NODE_MOUNTED_IMAGE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/digest.h"
#include "base/error.h"
#include "index/image_manifest.h"
#include "node/fill.h"
#include "node/front.h"
#include "node/node.h"
#include "node/trust.h"

struct mounted_image;

struct mounted_image_options {
    const char *reference;
    const char *mountpoint;            /* absolute, resolved */
    const struct platform *platform;   /* asked for, or NULL */
    const struct digest *pinned_index; /* the only one that is used, or NULL */
    enum index_trust pinned_trust;     /* as struct node_image_options */
    enum index_trust least_trust;
    uint32_t layers; /* that are shown, from below; 0: all */
    bool difference; /* only what the last of these changes; without fill and profile */
    enum front_kind front;
    bool no_profile;
    uint64_t prefetch_limit; /* bytes; 0: half of the cache's size */
    const char *record; /* absolute path of a file to write the order of first reads to, or NULL */
    enum fill_mode fill;
    uint64_t fill_rate; /* as struct fill_options */
    bool force;         /* also an index that was found to lie */
    const struct mounter *mounter;
    const struct fuse_lasting *lasting; /* as struct front_options; or NULL */
    /* As struct front_options; taken over by mounted_image_mount() and not before. */
    const struct front_resumed *resumed;
};

/* Loads the image. All is borrowed. */
int mounted_image_new(struct mounted_image **ret, struct node *node,
                      const struct mounted_image_options *options, struct error **error);
/* Mounts it; who looks into the tree waits until it is served. */
int mounted_image_mount(struct mounted_image *image, struct error **error);
/* Calls `ready` and serves until the tree has gone from everywhere, or mounted_image_stop(). */
int mounted_image_serve(struct mounted_image *image, void (*ready)(void *context), void *context,
                        struct error **error);
/* Once it is mounted: in a signal handler and on any thread, until mounted_image_end(). */
void mounted_image_stop(struct mounted_image *image);
/* Unmounts, ends what is under way, and closes the devices. */
void mounted_image_end(struct mounted_image *image);
/* NULL is fine. */
void mounted_image_free(struct mounted_image *image);

/* As front_connection() and front_negotiated(), from `ready` on. */
int mounted_image_connection(const struct mounted_image *image);
const struct fuse_negotiated *mounted_image_negotiated(const struct mounted_image *image);

/* What is to be told of it, as fields of a status (docs/man/sluice-status.1): a new object, in
 * which "front" is null until it is mounted. NULL: it is at its end. On any thread. */
json_t *mounted_image_status(struct mounted_image *image);
/* As image_cache_keys(). */
struct digest *mounted_image_cache_keys(const struct mounted_image *image, size_t *ret_count);

#endif
