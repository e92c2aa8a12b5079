/* Layers for tests: a tar of one file, packed in the ways that layers are, and the scanner's view
 * of it. Include after cmocka.h. */
#ifndef SLUICE_TESTS_UNIT_LAYER_PACKER_H
#define SLUICE_TESTS_UNIT_LAYER_PACKER_H

#include <stdio.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/buffer.h"
#include "index/layer_scan.h"
#include "tests/unit/tar_maker.h"

static inline void layer_header(struct buffer *ret, uint64_t length)
{
    uint8_t header[512];
    tar_block(header, &(struct tar_member){ .name = "file", .type = '0', .mode = 0644 }, length);
    tar_append(ret, header, sizeof header);
}

/* A tar whose file has `length` bytes (a multiple of 512): text that compresses with references far
 * back, and now and then (`runs`) a run of zeros. */
static inline void layer_of_words(struct buffer *ret, uint64_t length, bool runs)
{
    uint32_t random = 12345;
    layer_header(ret, length);
    while (ret->length < 512 + length) {
        char line[80];
        size_t left = (size_t)(512 + length - ret->length);
        random = random * 1664525 + 1013904223;
        int written = snprintf(line, sizeof line, "word%u and %08x then word%u\n", random >> 22,
                               random, (random >> 12) % 512);
        if (runs && (random >> 20) == 0) {
            assert_int_equal(buffer_append_zeros(ret, left < 40000 ? left : 40000), 0);
            continue;
        }
        tar_append(ret, line, left < (size_t)written ? left : (size_t)written);
    }
    assert_int_equal(buffer_append_zeros(ret, 1024), 0);
}

static inline void layer_of_zeros(struct buffer *ret, uint64_t length)
{
    layer_header(ret, length);
    assert_int_equal(buffer_append_zeros(ret, (size_t)length + 1024), 0);
}

/* One gzip member. */
static inline void gzip_append(struct buffer *ret, const uint8_t *data, size_t length, int level,
                               int strategy)
{
    z_stream stream = { 0 };
    assert_int_equal(deflateInit2(&stream, level, Z_DEFLATED, 31, 8, strategy), Z_OK);
    size_t bound = deflateBound(&stream, length) + 64;
    assert_int_equal(buffer_reserve(ret, bound), 0);
    stream.next_in = (z_const Bytef *)data;
    stream.avail_in = (uInt)length;
    stream.next_out = ret->data + ret->length;
    stream.avail_out = (uInt)bound;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    ret->length += bound - stream.avail_out;
    deflateEnd(&stream);
}

/* zstd frames of `frame` bytes each; SIZE_MAX: one frame. */
static inline void zstd_append(struct buffer *ret, const struct buffer *stream, size_t frame)
{
    for (size_t offset = 0; offset < stream->length;) {
        size_t left = stream->length - offset, length = left < frame ? left : frame;
        size_t bound = ZSTD_compressBound(length);
        assert_int_equal(buffer_reserve(ret, bound), 0);
        size_t written =
            ZSTD_compress(ret->data + ret->length, bound, stream->data + offset, length, 3);
        assert_false(ZSTD_isError(written));
        ret->length += written;
        offset += length;
    }
}

/* One zstd frame whose decoder needs a window of 2^window_log bytes, whatever is in it. */
static inline void zstd_append_frame(struct buffer *ret, const void *data, size_t length,
                                     int window_log)
{
    size_t bound = ZSTD_compressBound(length);
    assert_int_equal(buffer_reserve(ret, bound), 0);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    ZSTD_inBuffer input = { data, length, 0 };
    ZSTD_outBuffer output = { ret->data + ret->length, bound, 0 };
    /* Begun without the end in sight, or libzstd takes a window as small as the data. */
    size_t left = ZSTD_compressStream2(context, &output, &input, ZSTD_e_continue);
    while (!ZSTD_isError(left) &&
           (left = ZSTD_compressStream2(context, &output, &input, ZSTD_e_end)) > 0)
        continue;
    assert_false(ZSTD_isError(left));
    ret->length += output.pos;
    ZSTD_freeCCtx(context);
}

/* A blob in memory as layer_scan() reads it. */
struct memory_reader {
    const struct buffer *blob;
    size_t position;
    size_t step; /* most bytes a read gives */
};

static inline ssize_t read_memory(void *context, void *data, size_t capacity, struct error **error)
{
    struct memory_reader *reader = context;
    (void)error;
    size_t count = reader->blob->length - reader->position;
    if (count > capacity) count = capacity;
    if (count > reader->step) count = reader->step;
    memcpy(data, reader->blob->data + reader->position, count);
    reader->position += count;
    return (ssize_t)count;
}

#endif
