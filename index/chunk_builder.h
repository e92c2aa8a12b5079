/*
 * Cuts a decoded stream into chunks (the rules are those of chunk_table.h) and
 * hands each on with what belongs to its checkpoint. The decoders of
 * layer_decode.h write into it.
 */
#ifndef SLUICE_INDEX_CHUNK_BUILDER_H
#define SLUICE_INDEX_CHUNK_BUILDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "index/chunk_table.h"

/* A chunk as it was decoded. */
struct built_chunk {
    uint8_t *data; /* CHUNK_LENGTH_MAX bytes of room */
    size_t length;
    uint64_t stream_offset;
    uint64_t blob_offset;
    enum chunk_start start;
    unsigned bits;
    uint8_t window[GZIP_WINDOW_LENGTH]; /* CHUNK_WINDOW: the stream's bytes before it */
    struct buffer sample; /* CHUNK_WINDOW: the blob's first bytes from blob_offset on */
    bool sample_ends;     /* no blob byte follows the sample */
};

/* Takes a full chunk and gives an empty one to fill (its buffers are used again). NULL: stop, the
 * error is set elsewhere. */
typedef struct built_chunk *chunk_built(void *context, struct built_chunk *full);

struct chunk_builder;
/* `target` is what chunk_target_length() says, `first` the empty chunk to start with. NULL: out of
 * memory. */
struct chunk_builder *chunk_builder_new(size_t target, struct built_chunk *first,
                                        chunk_built *built, void *context);
void chunk_builder_free(struct chunk_builder *builder);

size_t chunk_builder_target(const struct chunk_builder *builder);
/* From here on the blob is cut where it wants to be: CHUNK_MARKED_LEAST. */
void chunk_builder_follow_frames(struct chunk_builder *builder);

/* Room for decoded bytes (at least one); NULL: stop. */
uint8_t *chunk_builder_room(struct chunk_builder *builder, size_t *ret_capacity);
/* `length` bytes were written into the room. */
void chunk_builder_wrote(struct chunk_builder *builder, size_t length);

/* Decoding could start at this place of the blob (CHUNK_FRAME or CHUNK_WINDOW), for the bytes that
 * are written next. For CHUNK_WINDOW with bits > 0, `partial` is the byte at blob_offset. */
void chunk_builder_checkpoint(struct chunk_builder *builder, enum chunk_start start,
                              uint64_t blob_offset, unsigned bits, uint8_t partial);
/* True while the builder wants to see the blob's bytes behind a CHUNK_WINDOW checkpoint. */
bool chunk_builder_wants_sample(const struct chunk_builder *builder);
void chunk_builder_sample(struct chunk_builder *builder, const void *blob_bytes, size_t length);

/* Hands on the last chunk, if it holds anything. -1: stop. The empty chunk left is the caller's. */
int chunk_builder_finish(struct chunk_builder *builder, struct built_chunk **ret_unused);

#endif
