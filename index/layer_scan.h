/*
 * Reads a layer's blob once, forward, and makes its tables: where its chunks
 * are, what it takes to decode each, and what entries the tar has.
 */
#ifndef SLUICE_INDEX_LAYER_SCAN_H
#define SLUICE_INDEX_LAYER_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "index/chunk_table.h"
#include "index/entry_table.h"

/* At most `capacity` bytes of the blob; 0 at its end, -1 on error. */
typedef ssize_t layer_read(void *context, void *data, size_t capacity, struct error **error);

struct layer_tables {
    struct chunk_table *chunks;
    struct entry_table *entries;
    struct buffer windows; /* the windows blob; empty where there are no windows */
};
void layer_tables_free(struct layer_tables *tables);

/*
 * Reads until the end, on this thread, with a second one that hashes what is
 * decoded. The blob must have `blob_length` bytes and digest `blob_digest`, and
 * where `stream_digest` is not NULL, its stream must have that (the diffID).
 * Whether it is gzip, zstd or plain tar is told by its first bytes, as
 * containerd does. About 30 MiB of memory, for zstd up to its window (128 MiB at the
 * most) more.
 */
int layer_scan(layer_read *read, void *context, uint64_t blob_length,
               const struct digest *blob_digest, const struct digest *stream_digest,
               struct layer_tables *ret, struct error **error);
/* The same, and writes the stream into `file`, a descriptor, from where it stands. */
int layer_scan_copy(layer_read *read, void *context, uint64_t blob_length,
                    const struct digest *blob_digest, const struct digest *stream_digest, int file,
                    struct layer_tables *ret, struct error **error);

#endif
