/* A layer for the data path: a stream of noise as plain tar, cut into small chunks. Include after
 * cmocka.h. */
#ifndef SLUICE_TESTS_TAR_LAYER_H
#define SLUICE_TESTS_TAR_LAYER_H

#include <stdint.h>
#include <stdlib.h>

#include "index/chunk_table.h"

struct tar_layer {
    uint8_t *stream;
    struct chunk_table table;
};

static inline void tar_layer_make(struct tar_layer *layer, uint64_t length, uint32_t chunk_size,
                                  uint64_t seed)
{
    uint32_t count = (uint32_t)((length + chunk_size - 1) / chunk_size);
    uint64_t random = 88172645463325252u + seed;
    layer->stream = malloc(length);
    for (uint64_t i = 0; i < length; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        layer->stream[i] = (uint8_t)random;
    }
    struct chunk_table *table = &layer->table;
    *table = (struct chunk_table){
        .kind = LAYER_TAR,
        .blob_length = length,
        .stream_length = length,
        .chunk_count = count,
        .chunks = calloc(count, sizeof *table->chunks),
    };
    digest_of(layer->stream, length, &table->blob_digest);
    table->stream_digest = table->blob_digest;
    for (uint32_t i = 0; i < count; i++) {
        table->chunks[i].stream_offset = table->chunks[i].blob_offset = (uint64_t)i * chunk_size;
        table->chunks[i].start = CHUNK_FRAME;
    }
    for (uint32_t i = 0; i < count; i++)
        digest_of(layer->stream + (uint64_t)i * chunk_size, chunk_length(table, i),
                  &table->chunks[i].digest);
}

static inline void tar_layer_free(struct tar_layer *layer)
{
    free(layer->table.chunks);
    free(layer->stream);
}

#endif
