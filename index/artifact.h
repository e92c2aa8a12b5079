/*
 * The index as an OCI artifact: a manifest whose layers are the parts, with the
 * image's manifest as its subject. docs/formats.md, "Index artifact".
 */
#ifndef SLUICE_INDEX_ARTIFACT_H
#define SLUICE_INDEX_ARTIFACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

#define ARTIFACT_TYPE_INDEX "application/vnd.sluice.index.v1+json"
#define MEDIA_TYPE_METADATA "application/vnd.sluice.metadata.v1.erofs+zstd"
#define MEDIA_TYPE_CHUNKS   "application/vnd.sluice.chunks.v1+zstd"
#define MEDIA_TYPE_ENTRIES  "application/vnd.sluice.entries.v1+zstd"
#define MEDIA_TYPE_WINDOWS  "application/vnd.sluice.windows.v1"
#define MEDIA_TYPE_PROFILE  "application/vnd.sluice.profile.v1+zstd"
/* The config of an artifact that has none (image specification 1.1, "empty descriptor"). */
#define MEDIA_TYPE_EMPTY "application/vnd.oci.empty.v1+json"
#define EMPTY_CONFIG     "{}"

/* A part larger than this, decoded, is refused: 1,000,000 entries need about 130 MB. */
#define PART_LENGTH_MAX (1ull << 30)
/* All chunk tables of an index together, decoded, because a node holds them in memory: 2 TiB in
 * chunks of 1 MiB take 80 MB. */
#define CHUNK_TABLES_LENGTH_MAX (128ull << 20)

/* A blob of the artifact. */
struct index_part {
    struct digest digest;         /* of the blob */
    uint64_t size;                /* of the blob */
    struct digest content_digest; /* decoded; for windows the same as above */
    uint64_t content_size;
};

struct index_layer {
    struct digest blob_digest; /* of the image's layer */
    struct index_part chunks;
    struct index_part entries;
    struct index_part windows; /* size 0: there is none */
};

struct index_artifact {
    struct digest subject; /* the image's manifest */
    uint64_t subject_size;
    char *subject_media_type;
    struct index_part metadata;
    struct index_layer *layers; /* as in the image, lowest first */
    size_t layer_count;
    struct index_part profile; /* size 0: there is none */
    /* Counted up when an index takes the place of another, so that in a list of both the newer one
     * is found. 0: it took nobody's place. */
    uint64_t revision;
};

#define INDEX_REVISION_MAX 1000000000u

/* The manifest, deterministic to the byte. */
int index_artifact_encode(const struct index_artifact *artifact, struct buffer *ret,
                          struct error **error);
/* Hostile bytes in: everything but the blobs' content is checked. */
int index_artifact_decode(struct index_artifact *ret, const void *data, size_t length,
                          struct error **error);
void index_artifact_free(struct index_artifact *artifact);

/* zstd for all parts but windows; index/part_decoder.h is the way back. */
int index_part_compress(const void *data, size_t length, struct buffer *ret, struct error **error);

/* In a list of referrers (an OCI image index): the digest of the newest index, or false. */
bool index_referrer_find(const void *data, size_t length, struct digest *ret);
/* An artifact's manifest as a list of referrers names it. */
struct index_referrer {
    struct digest digest;
    uint64_t size;
    uint64_t revision;
};
/* The list with this artifact's descriptor in it, in place of other sluice indexes; `data` may be
 * empty. Everything else in the list is kept. */
int index_referrer_add(const void *data, size_t length, const struct index_referrer *artifact,
                       struct buffer *ret, struct error **error);

#endif
