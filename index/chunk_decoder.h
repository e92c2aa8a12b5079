/*
 * Decodes a run of chunks from the blob's bytes, pushed in pieces of any size.
 * gzip by ISA-L, zstd by libzstd. Every chunk is checked against the table's
 * digest before it is handed out.
 */
#ifndef SLUICE_INDEX_CHUNK_DECODER_H
#define SLUICE_INDEX_CHUNK_DECODER_H

#include "base/error.h"
#include "index/chunk_table.h"

struct chunk_decoder;

/* A verified chunk; `data` is from malloc() and now the callee's. Returns 0, or -1 to stop. */
typedef int chunk_ready(void *context, uint32_t chunk, uint8_t *data, size_t length);

/* Chunks `first` (must be a checkpoint) to `last`. `window` (GZIP_WINDOW_LENGTH bytes, copied) only
 * where `first` is CHUNK_WINDOW, else NULL. `table` is borrowed. NULL: error is set. */
struct chunk_decoder *chunk_decoder_new(const struct chunk_table *table, uint32_t first,
                                        uint32_t last, const uint8_t *window, chunk_ready *ready,
                                        void *context, struct error **error);
/* The next bytes of chunk_table_blob_range(first, last). ERROR_INVALID: the bytes do not decode, or
 * a chunk's digest differs. Bytes after the last chunk are ignored. */
int chunk_decoder_feed(struct chunk_decoder *decoder, const void *data, size_t length,
                       struct error **error);
/* After the last byte: an error when a chunk is missing. */
int chunk_decoder_finish(struct chunk_decoder *decoder, struct error **error);
/* Bytes that it holds to go on decoding, the chunk that is being filled included. */
size_t chunk_decoder_memory(const struct chunk_decoder *decoder);
/* The same before there is one, at the most and without the chunk. A layer that needs more than its
 * table says does not decode. */
size_t chunk_decoder_memory_max(const struct chunk_table *table);
void chunk_decoder_free(struct chunk_decoder *decoder);

#endif
