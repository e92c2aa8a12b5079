#include "index/chunk_builder.h"

#include <stdlib.h>
#include <string.h>

#include "index/window_usage.h"

struct chunk_builder {
    size_t target;
    struct built_chunk *current;
    chunk_built *built;
    void *context;
    uint64_t stream_offset;           /* of the next byte written */
    uint64_t checkpoint;              /* blob offset of the newest checkpoint that a chunk uses */
    uint8_t tail[GZIP_WINDOW_LENGTH]; /* the stream before `current` */
};

struct chunk_builder *chunk_builder_new(size_t target, struct built_chunk *first,
                                        chunk_built *built, void *context)
{
    struct chunk_builder *builder = calloc(1, sizeof *builder);
    if (!builder) return NULL;
    builder->target = target;
    builder->current = first;
    builder->built = built;
    builder->context = context;
    first->length = 0;
    first->start = CHUNK_FRAME;
    return builder;
}

void chunk_builder_free(struct chunk_builder *builder)
{
    free(builder);
}

size_t chunk_builder_target(const struct chunk_builder *builder)
{
    return builder->target;
}

void chunk_builder_follow_frames(struct chunk_builder *builder)
{
    builder->target = CHUNK_MARKED_LEAST;
}

static void keep_tail(struct chunk_builder *builder)
{
    const struct built_chunk *chunk = builder->current;
    if (chunk->length >= GZIP_WINDOW_LENGTH) {
        memcpy(builder->tail, chunk->data + chunk->length - GZIP_WINDOW_LENGTH, GZIP_WINDOW_LENGTH);
        return;
    }
    size_t kept = GZIP_WINDOW_LENGTH - chunk->length;
    memmove(builder->tail, builder->tail + chunk->length, kept);
    memcpy(builder->tail + kept, chunk->data, chunk->length);
}

/* Hands on the current chunk and starts the next one, which continues it until a checkpoint says
 * otherwise. */
static int next_chunk(struct chunk_builder *builder)
{
    keep_tail(builder);
    struct built_chunk *fresh = builder->built(builder->context, builder->current);
    builder->current = fresh;
    if (!fresh) return -1;
    fresh->length = 0;
    fresh->stream_offset = builder->stream_offset;
    fresh->blob_offset = builder->checkpoint;
    fresh->start = CHUNK_CONTINUES;
    fresh->bits = 0;
    fresh->sample.length = 0;
    fresh->sample_ends = false;
    return 0;
}

uint8_t *chunk_builder_room(struct chunk_builder *builder, size_t *ret_capacity)
{
    if (!builder->current) return NULL;
    if (builder->current->length == CHUNK_LENGTH_MAX && next_chunk(builder) < 0) return NULL;
    *ret_capacity = CHUNK_LENGTH_MAX - builder->current->length;
    return builder->current->data + builder->current->length;
}

void chunk_builder_wrote(struct chunk_builder *builder, size_t length)
{
    builder->current->length += length;
    builder->stream_offset += length;
}

void chunk_builder_checkpoint(struct chunk_builder *builder, enum chunk_start start,
                              uint64_t blob_offset, unsigned bits, uint8_t partial)
{
    struct built_chunk *chunk = builder->current;
    if (!chunk) return;
    /* Nothing precedes the stream's first byte; the chunk starts with the blob. */
    if (builder->stream_offset == 0) return;
    if (chunk->length > 0) {
        if (chunk->length < builder->target) return;
        if (next_chunk(builder) < 0) return;
        chunk = builder->current;
    }
    /* Several checkpoints at one place of the stream: the newest needs the fewest bytes. */
    builder->checkpoint = blob_offset;
    chunk->blob_offset = blob_offset;
    chunk->start = start;
    chunk->bits = bits;
    chunk->sample.length = 0;
    chunk->sample_ends = false;
    if (start != CHUNK_WINDOW) return;
    memcpy(chunk->window, builder->tail, GZIP_WINDOW_LENGTH);
    if (bits) chunk_builder_sample(builder, &partial, 1);
}

bool chunk_builder_wants_sample(const struct chunk_builder *builder)
{
    const struct built_chunk *chunk = builder->current;
    return chunk && chunk->start == CHUNK_WINDOW && chunk->length < GZIP_WINDOW_LENGTH &&
           chunk->sample.length < WINDOW_USAGE_SAMPLE_MAX;
}

void chunk_builder_sample(struct chunk_builder *builder, const void *blob_bytes, size_t length)
{
    struct built_chunk *chunk = builder->current;
    size_t room = WINDOW_USAGE_SAMPLE_MAX - chunk->sample.length;
    /* The room was made with the chunk, so appending cannot fail. */
    buffer_append(&chunk->sample, blob_bytes, length < room ? length : room);
}

int chunk_builder_finish(struct chunk_builder *builder, struct built_chunk **ret_unused)
{
    *ret_unused = builder->current;
    if (!builder->current) return -1;
    if (builder->current->length == 0) return 0;
    builder->current->sample_ends = builder->current->sample.length < WINDOW_USAGE_SAMPLE_MAX;
    if (next_chunk(builder) < 0) return -1;
    *ret_unused = builder->current;
    return 0;
}
