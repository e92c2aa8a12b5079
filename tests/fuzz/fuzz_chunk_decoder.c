/*
 * Fed: a few words that make a chunk table, with a window that the index may
 * have made up, and the blob's bytes behind the checkpoint.
 *
 * Holds: in pieces of any size or at once, the decoder hands out nothing that
 * does not have the table's digest; and where zlib or libzstd, asked directly,
 * decode the bytes to their end, it hands out just these. (Else a layer that
 * could be indexed could not be read.) Where the bytes are wrong, it may fail
 * earlier than they do, as it looks ahead.
 */
#include <zlib.h>
#include <zstd.h>

#include "index/chunk_decoder.h"
#include "tests/fuzz/fuzz.h"

#define STREAM_MAX (64u << 10)
#define CHUNKS_MAX 4

struct decoded {
    const struct chunk_table *table;
    struct buffer bytes;
    uint32_t chunks;
};

static int take_chunk(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    struct decoded *decoded = context;
    struct digest digest;
    EXPECT(chunk == decoded->chunks && length == chunk_length(decoded->table, chunk));
    digest_of(data, length, &digest);
    EXPECT(digest_equal(&digest, &decoded->table->chunks[chunk].digest));
    EXPECT(buffer_append(&decoded->bytes, data, length) == 0);
    decoded->chunks++;
    free(data);
    return 0;
}

static void decode(const struct chunk_table *table, const uint8_t *window, const uint8_t *blob,
                   size_t length, size_t piece, struct decoded *ret)
{
    struct error *error = NULL;
    *ret = (struct decoded){ .table = table };
    struct chunk_decoder *decoder =
        chunk_decoder_new(table, 0, table->chunk_count - 1, window, take_chunk, ret, &error);
    EXPECT(decoder);
    int status = 0;
    for (size_t at = 0; status == 0 && at < length; at += piece) {
        size_t count = length - at < piece ? length - at : piece;
        uint8_t *copy = malloc(count); /* of its exact size, for the sanitizer */
        EXPECT(copy);
        memcpy(copy, blob + at, count);
        status = chunk_decoder_feed(decoder, copy, count, &error);
        free(copy);
    }
    if (status == 0) status = chunk_decoder_finish(decoder, &error);
    EXPECT((status == 0) == (ret->chunks == table->chunk_count));
    if (status < 0) expect_error(error);
    error_free(error);
    /* Its largest part is the window of zstd. */
    EXPECT(chunk_decoder_memory(decoder) < 130u << 20);
    chunk_decoder_free(decoder);
}

/* One deflate stream from the checkpoint on, by zlib. */
static size_t inflate_raw(const struct chunk *chunk, const uint8_t *window, const uint8_t *blob,
                          size_t length, uint8_t *out, bool *ret_clean)
{
    z_stream stream = { 0 };
    unsigned bits = chunk->bits;
    *ret_clean = false;
    if (bits && length == 0) return 0;
    EXPECT(inflateInit2(&stream, window ? -15 : 15 + 16) == Z_OK);
    if (bits) EXPECT(inflatePrime(&stream, (int)(8 - bits), blob[0] >> bits) == Z_OK);
    if (window) EXPECT(inflateSetDictionary(&stream, window, GZIP_WINDOW_LENGTH) == Z_OK);
    stream.next_in = (Bytef *)blob + (bits ? 1 : 0);
    stream.avail_in = (uInt)(length - (bits ? 1 : 0));
    stream.next_out = out;
    stream.avail_out = STREAM_MAX;
    *ret_clean = inflate(&stream, Z_NO_FLUSH) == Z_STREAM_END;
    size_t count = STREAM_MAX - stream.avail_out;
    inflateEnd(&stream);
    return count;
}

static size_t decode_zstd(const uint8_t *blob, size_t length, uint8_t *out, bool *ret_clean)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer input = { blob, length, 0 };
    ZSTD_outBuffer output = { out, STREAM_MAX, 0 };
    EXPECT(stream);
    size_t result = 0;
    while (input.pos < input.size && output.pos < output.size && !ZSTD_isError(result))
        result = ZSTD_decompressStream(stream, &output, &input);
    *ret_clean = !ZSTD_isError(result);
    ZSTD_freeDStream(stream);
    return output.pos;
}

/* What the bytes decode to as far as they do, by other means than the decoder's; *ret_clean tells
 * that nothing was wrong with them. */
static size_t reference(const struct chunk_table *table, const uint8_t *window, const uint8_t *blob,
                        size_t length, uint8_t *out, bool *ret_clean)
{
    switch (table->kind) {
    case LAYER_GZIP:
        return inflate_raw(&table->chunks[0], window, blob, length, out, ret_clean);
    case LAYER_ZSTD:
        return decode_zstd(blob, length, out, ret_clean);
    case LAYER_TAR:
        break;
    }
    *ret_clean = true;
    size_t count = length < STREAM_MAX ? length : STREAM_MAX;
    memcpy(out, blob, count);
    return count;
}

static void cut_into_chunks(struct chunk_table *table, struct chunk *chunks, const uint8_t *stream,
                            bool honest)
{
    uint32_t count = table->chunk_count;
    for (uint32_t i = 0; i < count; i++)
        chunks[i].stream_offset = table->stream_length * i / count;
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0) chunks[i].start = CHUNK_CONTINUES;
        digest_of(stream + chunks[i].stream_offset, (size_t)chunk_length(table, i),
                  &chunks[i].digest);
        if (!honest) chunks[i].digest.bytes[i]++;
    }
}

static void check(const struct decoded *decoded, const uint8_t *stream)
{
    size_t length = decoded->bytes.length;
    EXPECT(length == 0 || memcmp(decoded->bytes.data, stream, length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    static uint8_t stream[STREAM_MAX], window[GZIP_WINDOW_LENGTH];
    struct chunk chunks[CHUNKS_MAX] = { 0 };
    struct chunk_table table = { .chunks = chunks, .window_count = 1 };
    uint8_t kind = (uint8_t)take_number(&data, &length, 1);
    uint8_t shape = (uint8_t)take_number(&data, &length, 1);
    size_t piece = (size_t)take_number(&data, &length, 1) + 1;
    size_t cut = (size_t)take_number(&data, &length, 1);
    table.kind = LAYER_TAR + kind % 3;
    if (table.kind == LAYER_ZSTD) table.decoder_window = 1u << 27;
    table.blob_length = length;
    bool windowed = table.kind == LAYER_GZIP && kind >= 128;
    if (windowed) {
        chunks[0].start = CHUNK_WINDOW;
        chunks[0].bits = shape >> 5;
        for (size_t i = 0; i < sizeof window; i++)
            window[i] = (uint8_t)(i * 7 + i / 251);
    }
    const uint8_t *given = windowed ? window : NULL;
    bool clean = false;
    size_t got = reference(&table, given, data, length, stream, &clean);
    /* Sometimes the table claims less or more than there is. */
    bool short_of = cut % 4 == 3;
    table.stream_length = short_of ? got + cut : cut % 4 == 2 ? got - got * cut / 255 : got;
    if (table.stream_length > STREAM_MAX) table.stream_length = STREAM_MAX;
    table.chunk_count = 1 + shape % CHUNKS_MAX;
    if (table.stream_length < table.chunk_count) return 0;
    bool honest = shape % 32 < 28;
    cut_into_chunks(&table, chunks, stream, honest);

    struct decoded whole, pieces;
    decode(&table, given, data, length, length ? length : 1, &whole);
    decode(&table, given, data, length, piece, &pieces);
    check(&whole, stream);
    check(&pieces, stream);
    if (!honest) EXPECT(whole.chunks == 0 && pieces.chunks == 0);
    if (honest && clean && table.stream_length <= got)
        EXPECT(whole.chunks == table.chunk_count && pieces.chunks == table.chunk_count);
    buffer_free(&whole.bytes);
    buffer_free(&pieces.bytes);
    return 0;
}
