/*
 * Fed: a few words that make a layer of some megabytes and pack it: repeated
 * text, zeros and noise, in gzip of changing levels, strategies, flushes and
 * members, in frames of zstd, or plain. (Checkpoints are a megabyte apart; bytes
 * of a blob would never get there.)
 *
 * Holds: it is scanned, its stream is the one that was packed, and each chunk
 * decodes alone from its checkpoint; with a window that somebody has changed, it
 * decodes to the same or is refused.
 */
#include <zlib.h>
#include <zstd.h>

#include "index/chunk_decoder.h"
#include "index/layer_scan.h"
#include "tests/fuzz/fuzz.h"

#define STREAM_MAX (4u << 20)

/* ---- the stream ---- */

static void append(struct buffer *stream, const void *data, size_t length)
{
    EXPECT(buffer_append(stream, data, length) == 0);
}

/* What a file may hold: words that refer far back, zeros, noise. */
static void append_content(struct buffer *stream, uint8_t kind, size_t length)
{
    static uint32_t random;
    if (stream->length <= 512) random = 12345; /* the same for each input */
    if (kind % 4 == 0) {
        EXPECT(buffer_append_zeros(stream, length) == 0);
        return;
    }
    while (length > 0) {
        char line[64];
        random = random * 1664525 + 1013904223;
        size_t count =
            (size_t)snprintf(line, sizeof line, "word%u %08x %u\n", random >> 22,
                             kind % 4 == 1 ? random : random >> 20, (random >> 12) % 512);
        if (count > length) count = length;
        append(stream, line, count);
        length -= count;
    }
}

/* One file, of which only the length is in the header. */
static void make_stream(const uint8_t **data, size_t *length, struct buffer *ret)
{
    uint8_t header[512] = "file";
    EXPECT(buffer_append_zeros(ret, sizeof header) == 0);
    for (unsigned runs = 1 + (unsigned)take_number(data, length, 1) % 6; runs > 0; runs--) {
        uint8_t kind = (uint8_t)take_number(data, length, 1);
        size_t count = (size_t)take_number(data, length, 2) * 32;
        if (count > STREAM_MAX - ret->length) count = STREAM_MAX - ret->length;
        append_content(ret, kind, count);
    }
    size_t size = ret->length - sizeof header;
    EXPECT(buffer_append_zeros(ret, (512 - size % 512) % 512 + 1024) == 0);
    snprintf((char *)header + 100, 8, "%07o", 0644);
    snprintf((char *)header + 124, 12, "%011o", (unsigned)size);
    header[156] = '0';
    memcpy(header + 257, "ustar\00000", 8);
    unsigned sum = 8 * ' ';
    for (size_t i = 0; i < sizeof header; i++)
        sum += header[i];
    snprintf((char *)header + 148, 8, "%06o", sum);
    memcpy(ret->data, header, sizeof header);
}

/* ---- packing ---- */

static void deflate_piece(z_stream *packer, const uint8_t *data, size_t length, int flush,
                          struct buffer *ret)
{
    packer->next_in = (Bytef *)data;
    packer->avail_in = (uInt)length;
    do {
        EXPECT(buffer_reserve(ret, 65536) == 0);
        packer->next_out = ret->data + ret->length;
        packer->avail_out = 65536;
        EXPECT(deflate(packer, flush) != Z_STREAM_ERROR);
        ret->length += 65536 - packer->avail_out;
    } while (packer->avail_out == 0);
    EXPECT(packer->avail_in == 0);
}

/* Pieces of sizes that the words say, each with a level, a strategy and a way to end. */
static void pack_gzip(const struct buffer *stream, const uint8_t **data, size_t *length,
                      struct buffer *ret)
{
    static const int flushes[] = { Z_NO_FLUSH, Z_PARTIAL_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH,
                                   Z_BLOCK,    Z_NO_FLUSH,      Z_FINISH,     Z_NO_FLUSH };
    z_stream packer = { 0 };
    bool open = false;
    for (size_t at = 0; at < stream->length;) {
        uint8_t shape = (uint8_t)take_number(data, length, 1);
        size_t count = (size_t)take_number(data, length, 2) * 16 + 1;
        if (*length == 0 || count > stream->length - at) count = stream->length - at;
        int level = shape >> 3 & 3, flush = flushes[shape % 8];
        if (!open) {
            EXPECT(deflateInit2(&packer, level, Z_DEFLATED, 31, 8, shape >> 5 & 3) == Z_OK);
            open = true;
        } else if (shape & 128) {
            deflate_piece(&packer, NULL, 0, Z_BLOCK, ret);
            (void)deflateParams(&packer, level, shape >> 5 & 3);
        }
        at += count;
        if (at == stream->length) flush = Z_FINISH;
        deflate_piece(&packer, stream->data + at - count, count, flush, ret);
        if (flush != Z_FINISH) continue;
        deflateEnd(&packer);
        open = false;
    }
}

static void pack_zstd(const struct buffer *stream, const uint8_t **data, size_t *length,
                      struct buffer *ret)
{
    for (size_t at = 0; at < stream->length;) {
        int level = (int)take_number(data, length, 1) % 5;
        size_t count = (size_t)take_number(data, length, 2) * 64 + 1;
        if (*length == 0 || count > stream->length - at) count = stream->length - at;
        size_t bound = ZSTD_compressBound(count);
        EXPECT(buffer_reserve(ret, bound) == 0);
        size_t made =
            ZSTD_compress(ret->data + ret->length, bound, stream->data + at, count, level);
        EXPECT(!ZSTD_isError(made));
        ret->length += made;
        at += count;
    }
}

/* ---- reading it back ---- */

struct source {
    const struct buffer *blob;
    size_t position;
};

static ssize_t read_source(void *context, void *data, size_t capacity, struct error **error)
{
    struct source *source = context;
    (void)error;
    size_t count = source->blob->length - source->position;
    if (count > capacity) count = capacity;
    if (count) memcpy(data, source->blob->data + source->position, count);
    source->position += count;
    return (ssize_t)count;
}

struct output {
    const struct chunk_table *table;
    const struct buffer *stream;
    uint64_t length;
};

static int compare_chunk(void *context, uint32_t chunk, uint8_t *data, size_t length)
{
    struct output *output = context;
    uint64_t offset = output->table->chunks[chunk].stream_offset;
    EXPECT(memcmp(data, output->stream->data + offset, length) == 0);
    output->length += length;
    free(data);
    return 0;
}

/* 0: all of it decoded. */
static int decode_run(const struct buffer *blob, uint32_t first, uint32_t last,
                      const uint8_t *window, struct output *output)
{
    uint64_t offset, length;
    struct error *error = NULL;
    struct chunk_decoder *decoder =
        chunk_decoder_new(output->table, first, last, window, compare_chunk, output, &error);
    EXPECT(decoder);
    chunk_table_blob_range(output->table, first, last, &offset, &length);
    int status = chunk_decoder_feed(decoder, blob->data + offset, (size_t)length, &error);
    if (status == 0) status = chunk_decoder_finish(decoder, &error);
    if (status < 0) expect_error(error);
    error_free(error);
    chunk_decoder_free(decoder);
    return status;
}

static void check_run(const struct buffer *blob, const struct layer_tables *tables, uint32_t first,
                      uint32_t last, struct output *output)
{
    const struct chunk_table *table = tables->chunks;
    const struct chunk *chunk = &table->chunks[first];
    uint8_t window[GZIP_WINDOW_LENGTH];
    struct error *error = NULL;
    if (chunk->start != CHUNK_WINDOW) {
        EXPECT(decode_run(blob, first, last, NULL, output) == 0);
        return;
    }
    const struct window_group *group = &table->groups[chunk->window / WINDOWS_PER_GROUP];
    EXPECT_SUCCESS(window_group_extract(table, chunk->window, tables->windows.data + group->offset,
                                        group->length, window, &error));
    EXPECT(decode_run(blob, first, last, window, output) == 0);
    struct output changed = *output;
    for (size_t i = first % 7; i < sizeof window; i += 1 + first % 1000)
        window[i] ^= 0x55;
    (void)decode_run(blob, first, last, window, &changed);
}

static void check(const struct buffer *blob, const struct buffer *stream)
{
    struct source source = { blob, 0 };
    struct layer_tables tables = { 0 };
    struct error *error = NULL;
    struct digest blob_digest, stream_digest;
    digest_of(blob->data, blob->length, &blob_digest);
    digest_of(stream->data, stream->length, &stream_digest);
    EXPECT_SUCCESS(layer_scan(read_source, &source, blob->length, &blob_digest, &stream_digest,
                              &tables, &error));
    const struct chunk_table *table = tables.chunks;
    struct output output = { table, stream, 0 };
    for (uint32_t first = 0, last; first < table->chunk_count; first = last + 1) {
        for (last = first; last + 1 < table->chunk_count; last++)
            if (table->chunks[last + 1].start != CHUNK_CONTINUES) break;
        check_run(blob, &tables, first, last, &output);
    }
    EXPECT(output.length == stream->length && entry_table_count(tables.entries) == 1);
    layer_tables_free(&tables);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct buffer stream = { 0 }, blob = { 0 };
    uint8_t kind = (uint8_t)take_number(&data, &length, 1);
    make_stream(&data, &length, &stream);
    if (kind % 8 == 0)
        append(&blob, stream.data, stream.length);
    else if (kind % 8 == 1)
        pack_zstd(&stream, &data, &length, &blob);
    else
        pack_gzip(&stream, &data, &length, &blob);
    check(&blob, &stream);
    buffer_free(&stream);
    buffer_free(&blob);
    return 0;
}
