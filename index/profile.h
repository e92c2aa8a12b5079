/*
 * A profile: the chunks that a workload touched first, in their order, and which file caused each.
 * An optional part of an index (docs/formats.md, "Profile"); also the form of a record that a node
 * made by itself. It is a hint: what it says changes when bytes are fetched, never what they are.
 */
#ifndef SLUICE_INDEX_PROFILE_H
#define SLUICE_INDEX_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

/* Bytes of an encoded profile, and what bounds the memory of a decoded one (some ten times that).
 */
#define PROFILE_LENGTH_MAX (4u << 20)

/* A layer as a profile knows it: chunks are numbers in its table. */
struct profile_layer {
    struct digest table_digest; /* of the chunk table, as the index's descriptor states it */
    uint32_t chunk_count;
};

#define PROFILE_NO_PATH UINT32_MAX

/* Chunks that follow each other, touched one after the other because of one file. */
struct profile_entry {
    uint32_t layer; /* from 0 */
    uint32_t first, count;
    uint32_t milliseconds; /* from the start of the record to the first touch */
    uint32_t path;         /* in `paths`, or PROFILE_NO_PATH */
};

/* No chunk is in two entries. Paths are relative to the root, each once, in the order in which
 * entries name them first. */
struct profile {
    struct profile_entry *entries;
    size_t entry_count;
    char **paths;
    size_t path_count;
    uint64_t chunk_count; /* of all entries */
};

void profile_free(struct profile *profile);

/* Builds a profile touch by touch. */
struct profile_writer;
int profile_writer_new(struct profile_writer **ret, const struct profile_layer *layers,
                       size_t layer_count, struct error **error);
/* A chunk that was added before is passed over, as is what would make the profile too large. `path`
 * (or NULL) is copied; one that a profile cannot hold counts as NULL. ERROR_INVALID: there is no
 * such chunk. */
int profile_writer_add(struct profile_writer *writer, uint32_t layer, uint32_t chunk,
                       uint64_t milliseconds, const char *path, struct error **error);
/* All of another profile, behind what is there. */
int profile_writer_add_all(struct profile_writer *writer, const struct profile *profile,
                           struct error **error);
/* The format of docs/formats.md, not compressed. Deterministic. */
int profile_writer_encode(const struct profile_writer *writer, struct buffer *ret,
                          struct error **error);
void profile_writer_free(struct profile_writer *writer);

/* Hostile bytes in. ERROR_INVALID where they are no profile, ERROR_UNSUPPORTED where it is one of
 * other layers or of a later version. `layers` are those of the index. */
int profile_decode(struct profile *ret, const void *data, size_t length,
                   const struct profile_layer *layers, size_t layer_count, struct error **error);

#endif
