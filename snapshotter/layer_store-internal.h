/*
 * What the files of the layer store share.
 *
 *   layer_store.c        which layers there are, and what is told of their use
 *   layer_store_files.c  the file system, as FUSE asks for it
 *   layer_store_mount.c  where it is mounted
 */
#ifndef SLUICE_SNAPSHOTTER_LAYER_STORE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_LAYER_STORE_INTERNAL_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "fuse/fuse_server.h"
#include "snapshotter/layer_store.h"
#include "snapshotter/layer_uses.h"

/* A directory that the kernel knows: of an image, or of one of its layers. */
struct store_place {
    TAILQ_ENTRY(store_place) entry;
    uint64_t number;
    uint64_t lookups; /* of the directory and of its files, as FUSE counts them */
    char *image;      /* the name that was asked for */
    bool is_layer;
    struct digest blob;
    struct lazy_use use;
    /* Once its files were looked for: */
    char *path, *info;
    uint64_t blob_length;
};

struct layer_store {
    struct lazy_images *images;
    struct layer_uses *uses;
    char *path; /* where it is mounted, or NULL */
    struct fuse_server *server;
    pthread_mutex_t lock; /* over the places */
    TAILQ_HEAD(, store_place) places;
    uint64_t last_number;
};

/* ---- layer_store.c ---- */

/* Whether there is such a layer, and what it is; a line in the log tells of failures. Waits for the
 * image's decision. */
bool layer_store_find(struct layer_store *store, const char *image, const struct digest *blob,
                      struct lazy_use *ret);
struct store_layer {
    char *path; /* where it is mounted */
    char *info; /* the file's content */
    uint64_t blob_length;
};
/* Has it mounted. 0, or an errno. The texts of `ret` are the caller's. */
int layer_store_show(struct layer_store *store, const char *image, const struct digest *blob,
                     const struct lazy_use *use, struct store_layer *ret);
void layer_store_used(struct layer_store *store, const char *image, const struct digest *blob,
                      const struct lazy_use *use);
void layer_store_unused(struct layer_store *store, const char *image, const struct digest *blob);

/* ---- layer_store_files.c ---- */

/* Their context is the store. */
extern const struct fuse_lowlevel_ops layer_store_operations;
void layer_store_forget_all(struct layer_store *store);

/* ---- layer_store_mount.c ---- */

/* The connection's descriptor, or -1. */
int layer_store_attach(const char *path, struct error **error);
void layer_store_detach(const char *path);

#endif
