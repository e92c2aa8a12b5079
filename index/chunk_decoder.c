#include "index/chunk_decoder.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "index/gzip_decoder.h"

struct chunk_decoder {
    const struct chunk_table *table;
    uint32_t next; /* the chunk being filled */
    uint32_t last;
    uint8_t *data; /* of chunk `next`; NULL before its first byte */
    size_t filled;
    chunk_ready *ready;
    void *context;
    struct gzip_decoder *gzip;
    ZSTD_DStream *zstd;
};

static ZSTD_DStream *new_zstd_stream(const struct chunk_table *table)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    if (!stream) return NULL;
    int window_log = __builtin_ctz(table->decoder_window);
    if (!ZSTD_isError(ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, window_log)))
        return stream;
    ZSTD_freeDStream(stream);
    return NULL;
}

struct chunk_decoder *chunk_decoder_new(const struct chunk_table *table, uint32_t first,
                                        uint32_t last, const uint8_t *window, chunk_ready *ready,
                                        void *context, struct error **error)
{
    struct chunk_decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        error_set_memory(error);
        return NULL;
    }
    const struct chunk *chunk = &table->chunks[first];
    decoder->table = table;
    decoder->next = first;
    decoder->last = last;
    decoder->ready = ready;
    decoder->context = context;
    switch (table->kind) {
    case LAYER_GZIP:
        decoder->gzip = window ? gzip_decoder_new_at(window, chunk->bits) : gzip_decoder_new();
        break;
    case LAYER_ZSTD:
        decoder->zstd = new_zstd_stream(table);
        break;
    case LAYER_TAR:
        return decoder;
    }
    if (!decoder->gzip && !decoder->zstd) {
        error_set_memory(error);
        chunk_decoder_free(decoder);
        return NULL;
    }
    return decoder;
}

/* Decodes from *data into `out`; returns the bytes written. Progress on either side, or both ends
 * (input used up, output full) are reached. */
static ssize_t decode_some(struct chunk_decoder *decoder, const uint8_t **data, size_t *length,
                           uint8_t *out, size_t capacity, struct error **error)
{
    switch (decoder->table->kind) {
    case LAYER_TAR: {
        size_t count = *length < capacity ? *length : capacity;
        memcpy(out, *data, count);
        *data += count;
        *length -= count;
        return (ssize_t)count;
    }
    case LAYER_GZIP:
        return gzip_decoder_run(decoder->gzip, data, length, out, capacity, error);
    case LAYER_ZSTD: {
        ZSTD_inBuffer input = { *data, *length, 0 };
        ZSTD_outBuffer output = { out, capacity, 0 };
        size_t result = ZSTD_decompressStream(decoder->zstd, &output, &input);
        if (ZSTD_isError(result))
            return error_set(error, ERROR_INVALID, "zstd data does not decode (%s)",
                             ZSTD_getErrorName(result));
        *data += input.pos;
        *length -= input.pos;
        return (ssize_t)output.pos;
    }
    }
    return error_set(error, ERROR_INVALID, "unknown kind of layer");
}

/* Checks the full chunk and hands it out. Returns 1 when the callee wants no more. */
static int finish_chunk(struct chunk_decoder *decoder, struct error **error)
{
    uint32_t chunk = decoder->next;
    struct digest digest;
    digest_of(decoder->data, decoder->filled, &digest);
    if (!digest_equal(&digest, &decoder->table->chunks[chunk].digest))
        return error_set(error, ERROR_INVALID, "chunk %u does not have the digest of the index",
                         chunk);
    uint8_t *data = take_pointer(&decoder->data);
    size_t length = decoder->filled;
    decoder->filled = 0;
    decoder->next++;
    return decoder->ready(decoder->context, chunk, data, length) < 0 ? 1 : 0;
}

int chunk_decoder_feed(struct chunk_decoder *decoder, const void *data, size_t length,
                       struct error **error)
{
    const uint8_t *input = data;
    while (decoder->next <= decoder->last) {
        size_t size = (size_t)chunk_length(decoder->table, decoder->next);
        if (!decoder->data) decoder->data = malloc(size);
        if (!decoder->data) return error_set_memory(error);
        size_t left = length;
        ssize_t count = decode_some(decoder, &input, &length, decoder->data + decoder->filled,
                                    size - decoder->filled, error);
        if (count < 0) return error_prefix(error, "chunk %u", decoder->next);
        decoder->filled += (size_t)count;
        if (decoder->filled == size) {
            int stop = finish_chunk(decoder, error);
            if (stop) {
                if (stop > 0) decoder->next = decoder->last + 1;
                return stop < 0 ? -1 : 0;
            }
        } else if (count == 0 && length == left) {
            break; /* all is used up */
        }
    }
    return 0;
}

int chunk_decoder_finish(struct chunk_decoder *decoder, struct error **error)
{
    if (decoder->next > decoder->last) return 0;
    return error_set(error, ERROR_INVALID, "the blob's bytes end within chunk %u", decoder->next);
}

size_t chunk_decoder_memory(const struct chunk_decoder *decoder)
{
    size_t chunk = decoder->data ? (size_t)chunk_length(decoder->table, decoder->next) : 0;
    /* What the gzip decoder holds is small beside a chunk. */
    return sizeof *decoder + chunk + (decoder->zstd ? ZSTD_sizeof_DStream(decoder->zstd) : 0);
}

size_t chunk_decoder_memory_max(const struct chunk_table *table)
{
    /* Beside the window, libzstd 1.5 has two blocks of 128 KiB, and tables. */
    return table->kind == LAYER_ZSTD ? table->decoder_window + (512u << 10) : 0;
}

void chunk_decoder_free(struct chunk_decoder *decoder)
{
    if (!decoder) return;
    gzip_decoder_free(decoder->gzip);
    ZSTD_freeDStream(decoder->zstd);
    free(decoder->data);
    free(decoder);
}
