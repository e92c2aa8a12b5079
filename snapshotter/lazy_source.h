/*
 * What the snapshotter asks of whoever provides lazy images. A committed snapshot may be lazy: it
 * has no directory, and shows the merge of the first `layers` layers of an image, whole, whatever
 * its parents are.
 *
 * Functions are called on several threads at once, and may call the snapshotter only where it says
 * so.
 */
#ifndef SLUICE_SNAPSHOTTER_LAZY_SOURCE_H
#define SLUICE_SNAPSHOTTER_LAZY_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"
#include "snapshotter/labels.h"

/* Which part of an image a Prepare is for, out of its labels (pull_labels.h). */
struct lazy_layer {
    const char *image_name; /* as the client wrote it */
    struct digest manifest; /* of one platform; only where has_manifest */
    bool has_manifest;
    struct digest layer;         /* the blob's digest */
    const char *chain_id;        /* of this layer and those below */
    const char *parent_chain_id; /* NULL: it has no parent, or gets it when it is committed */
    const struct labels *labels; /* all there are */
};

/* What a lazy snapshot shows. */
struct lazy_use {
    uint64_t image; /* a number that the source gave; never 0, and never that of another image */
    uint32_t layers;
};

struct lazy_source {
    void *context;
    /* What there is at the start, each once; other images are not needed by any snapshot. */
    int (*start)(void *context, const struct lazy_use *uses, size_t count, struct error **error);
    /* 1: `ret` shows it; 0: the layer shall be unpacked ordinarily; -1: Prepare fails. May wait for
     * a decision, for seconds. */
    int (*want)(void *context, const struct lazy_layer *layer, struct lazy_use *ret,
                struct error **error);
    /* A snapshot of `use` is being committed. True: the image stays until unused(); false: it has
     * gone meanwhile. Must not wait, as unused(): no other snapshot is made or removed meanwhile.
     */
    bool (*used)(void *context, const struct lazy_use *use);
    /* No committed snapshot uses the image. Also called for one that was wanted and then not used.
     * Containers may still have it mounted. */
    void (*unused)(void *context, uint64_t image);
    /* Has it mounted and healthy: the absolute path of its root, in fresh memory, without any of
     * ",:\\". ERROR_UNREACHABLE, with what to do, where that cannot be had now. May wait. */
    char *(*path)(void *context, const struct lazy_use *use, struct error **error);
};

#endif
