/*
 * What containerd has of an image, asked and changed by its own command, ctr(8): images by name,
 * and blobs by digest. ctr finds containerd by CONTAINERD_ADDRESS and CONTAINERD_NAMESPACE where
 * nothing else is said.
 */
#ifndef SLUICE_DEPLOYTOOL_CONTAINERD_STORE_H
#define SLUICE_DEPLOYTOOL_CONTAINERD_STORE_H

#include <stddef.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "index/image_manifest.h"

struct containerd_store {
    const char *address, *name_space; /* NULL: ctr's own */
};

/* The digest of the manifest or image index that containerd has under a name; ERROR_NOT_FOUND. */
int containerd_store_image(const struct containerd_store *store, const char *name,
                           struct digest *ret, struct error **error);
/* Appends one text, all digests of its blobs, a line each. */
int containerd_store_list(const struct containerd_store *store, struct buffer *ret,
                          struct error **error);
/* Appends a blob of at most `limit` bytes, which has its digest. */
int containerd_store_read(const struct containerd_store *store, const struct digest *digest,
                          size_t limit, struct buffer *ret, struct error **error);
/* Has the manifest keep its blobs, as pulls do: else containerd removes what nothing refers to. */
int containerd_store_keep(const struct containerd_store *store, const struct digest *manifest,
                          const struct image_manifest *blobs, struct error **error);

/* Gives the next bytes of a blob: at most `capacity`, 0 at its end, -1: error. */
typedef ssize_t containerd_store_source(void *context, void *data, size_t capacity,
                                        struct error **error);
/* Adds a blob; containerd takes it only with this size and digest. */
int containerd_store_add(const struct containerd_store *store, const struct descriptor *blob,
                         containerd_store_source *source, void *context, struct error **error);

#endif
