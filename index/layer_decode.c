#include "index/layer_decode.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "index/frame_mark.h"
#include "index/gzip_member.h"
#include "index/zstd_header.h"

enum gzip_step { STEP_HEADER, STEP_DEFLATE, STEP_TRAILER, STEP_GARBAGE };

struct layer_decode {
    enum layer_kind kind;
    struct chunk_builder *builder;
    uint64_t blob_offset; /* of the next byte to decode */

    /* gzip */
    enum gzip_step step;
    bool first_member;
    bool inflating; /* `stream` is initialised */
    uint64_t member_offset;
    unsigned trailer_left;
    struct gzip_header header;
    z_stream stream;

    /* zstd */
    ZSTD_DStream *zstd;
    bool in_frame;
    struct zstd_header frame_header;
    struct frame_mark_reader mark;
    uint32_t window; /* the largest of any frame, as struct chunk_table has it */
};

struct layer_decode *layer_decode_new(enum layer_kind kind, struct chunk_builder *builder,
                                      struct error **error)
{
    struct layer_decode *decode = calloc(1, sizeof *decode);
    if (!decode) {
        error_set_memory(error);
        return NULL;
    }
    decode->kind = kind;
    decode->builder = builder;
    decode->first_member = true;
    if (kind == LAYER_GZIP) decode->inflating = inflateInit2(&decode->stream, -MAX_WBITS) == Z_OK;
    if (kind == LAYER_ZSTD) decode->zstd = ZSTD_createDStream();
    if ((kind == LAYER_GZIP && !decode->inflating) || (kind == LAYER_ZSTD && !decode->zstd)) {
        error_set_memory(error);
        layer_decode_free(decode);
        return NULL;
    }
    return decode;
}

void layer_decode_free(struct layer_decode *decode)
{
    if (!decode) return;
    if (decode->inflating) inflateEnd(&decode->stream);
    ZSTD_freeDStream(decode->zstd);
    free(decode);
}

static int feed_tar(struct layer_decode *decode, const uint8_t *data, size_t length)
{
    size_t target = chunk_builder_target(decode->builder);
    while (length) {
        size_t room;
        chunk_builder_checkpoint(decode->builder, CHUNK_FRAME, decode->blob_offset, 0, 0);
        uint8_t *out = chunk_builder_room(decode->builder, &room);
        if (!out) return 1;
        /* A checkpoint may be anywhere, so the chunks are of the target length to the byte. */
        size_t to_border = target - (size_t)(decode->blob_offset % target);
        size_t count = length < room ? length : room;
        if (count > to_border) count = to_border;
        memcpy(out, data, count);
        chunk_builder_wrote(decode->builder, count);
        decode->blob_offset += count;
        data += count;
        length -= count;
    }
    return 0;
}

/* The next bytes of a frame. */
static int note_window(struct layer_decode *decode, const uint8_t *data, size_t length,
                       struct error **error)
{
    uint64_t window;
    if (!zstd_header_feed(&decode->frame_header, data, length, &window) || window == 0) return 0;
    if (window > CHUNK_DECODER_WINDOW_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "a zstd frame takes a window of %llu MiB of memory to decode, and %u MiB "
                         "is the most",
                         (unsigned long long)(window >> 20), CHUNK_DECODER_WINDOW_MAX >> 20);
    uint32_t rounded = CHUNK_DECODER_WINDOW_LEAST;
    while (rounded < window)
        rounded *= 2;
    if (rounded > decode->window) decode->window = rounded;
    return 0;
}

static int feed_zstd(struct layer_decode *decode, const uint8_t *data, size_t length,
                     struct error **error)
{
    ZSTD_inBuffer input = { data, length, 0 };
    bool output_full = false;
    while (input.pos < input.size || output_full) {
        size_t room;
        size_t before = input.pos;
        if (!decode->in_frame) {
            chunk_builder_checkpoint(decode->builder, CHUNK_FRAME, decode->blob_offset + before, 0,
                                     0);
            decode->frame_header = (struct zstd_header){ 0 };
            decode->mark = (struct frame_mark_reader){ 0 };
        }
        uint8_t *out = chunk_builder_room(decode->builder, &room);
        if (!out) return 1;
        ZSTD_outBuffer output = { out, room, 0 };
        size_t result = ZSTD_decompressStream(decode->zstd, &output, &input);
        if (ZSTD_isError(result))
            return error_set(error, ERROR_INVALID, "zstd data at byte %llu: %s",
                             (unsigned long long)(decode->blob_offset + input.pos),
                             ZSTD_getErrorName(result));
        if (note_window(decode, data + before, input.pos - before, error) < 0) return -1;
        if (frame_mark_feed(&decode->mark, data + before, input.pos - before))
            chunk_builder_follow_frames(decode->builder);
        decode->in_frame = result != 0;
        output_full = output.pos == output.size && result != 0;
        chunk_builder_wrote(decode->builder, output.pos);
    }
    decode->blob_offset += length;
    return 0;
}

/* Inflates until a block border, the end of the input or of the output. */
static int inflate_some(struct layer_decode *decode, const uint8_t **data, size_t *length,
                        bool *ret_output_full, struct error **error)
{
    z_stream *stream = &decode->stream;
    struct chunk_builder *builder = decode->builder;
    size_t room;
    uint8_t *out = chunk_builder_room(builder, &room);
    if (!out) return 1;
    bool sample = chunk_builder_wants_sample(builder);
    stream->next_in = (z_const Bytef *)*data;
    stream->avail_in = (uInt)*length;
    stream->next_out = out;
    stream->avail_out = (uInt)room;
    int result = inflate(stream, Z_BLOCK);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
        return error_set(error, ERROR_INVALID, "gzip data at byte %llu: %s",
                         (unsigned long long)decode->blob_offset,
                         stream->msg ? stream->msg : "does not decode");
    size_t used = *length - stream->avail_in;
    chunk_builder_wrote(builder, room - stream->avail_out);
    if (sample) chunk_builder_sample(builder, *data, used);
    *ret_output_full = stream->avail_out == 0;
    *data += used;
    *length -= used;
    decode->blob_offset += used;
    if (result == Z_STREAM_END) {
        decode->step = STEP_TRAILER;
        decode->trailer_left = GZIP_TRAILER_LENGTH;
        *ret_output_full = false;
        return 0;
    }
    /* zlib.h, inflate(): 128 tells that it stopped at a block border, 64 that the block behind it
     * was the last; the low bits count those of the last byte that it has not used. */
    if ((stream->data_type & 128) && !(stream->data_type & 64) && decode->blob_offset > 0 &&
        used > 0) {
        unsigned unused = (unsigned)stream->data_type & 7;
        chunk_builder_checkpoint(builder, CHUNK_WINDOW, decode->blob_offset - (unused ? 1 : 0),
                                 unused ? 8 - unused : 0, (*data)[-1]);
    }
    return 0;
}

static int feed_header(struct layer_decode *decode, const uint8_t **data, size_t *length,
                       struct error **error)
{
    size_t used = 0;
    switch (gzip_header_feed(&decode->header, *data, *length, &used)) {
    case GZIP_HEADER_INVALID:
        if (decode->first_member)
            return error_set(error, ERROR_INVALID, "gzip header is not valid");
        decode->step = STEP_GARBAGE;
        return 0;
    case GZIP_HEADER_DONE:
        decode->first_member = false;
        decode->step = STEP_DEFLATE;
        inflateReset(&decode->stream);
        chunk_builder_checkpoint(decode->builder, CHUNK_FRAME, decode->member_offset, 0, 0);
        break;
    case GZIP_HEADER_MORE:
        break;
    }
    *data += used;
    *length -= used;
    decode->blob_offset += used;
    return 0;
}

static void feed_trailer(struct layer_decode *decode, const uint8_t **data, size_t *length)
{
    size_t skip = *length < decode->trailer_left ? *length : decode->trailer_left;
    decode->trailer_left -= (unsigned)skip;
    *data += skip;
    *length -= skip;
    decode->blob_offset += skip;
    if (decode->trailer_left) return;
    decode->step = STEP_HEADER;
    decode->header = (struct gzip_header){ 0 };
    decode->member_offset = decode->blob_offset;
}

static int feed_gzip(struct layer_decode *decode, const uint8_t *data, size_t length,
                     struct error **error)
{
    bool output_full = false;
    while (length || output_full) {
        int result = 0;
        switch (decode->step) {
        case STEP_HEADER:
            result = feed_header(decode, &data, &length, error);
            break;
        case STEP_DEFLATE:
            result = inflate_some(decode, &data, &length, &output_full, error);
            break;
        case STEP_TRAILER:
            feed_trailer(decode, &data, &length);
            break;
        case STEP_GARBAGE: /* as gzip(1) does, what follows the last member is left alone */
            return 0;
        }
        if (result) return result;
    }
    return 0;
}

int layer_decode_feed(struct layer_decode *decode, const uint8_t *data, size_t length,
                      struct error **error)
{
    switch (decode->kind) {
    case LAYER_TAR:
        return feed_tar(decode, data, length);
    case LAYER_GZIP:
        return feed_gzip(decode, data, length, error);
    case LAYER_ZSTD:
        return feed_zstd(decode, data, length, error);
    }
    return error_set(error, ERROR_INVALID, "unknown kind of layer");
}

int layer_decode_finish(struct layer_decode *decode, struct error **error)
{
    bool whole = true;
    if (decode->kind == LAYER_GZIP)
        whole =
            decode->step == STEP_GARBAGE || (decode->step == STEP_HEADER && !decode->first_member);
    if (decode->kind == LAYER_ZSTD) whole = !decode->in_frame;
    if (whole) return 0;
    return error_set(error, ERROR_INVALID, "%s data is cut short after byte %llu",
                     layer_kind_name(decode->kind), (unsigned long long)decode->blob_offset);
}

uint32_t layer_decode_window(const struct layer_decode *decode)
{
    return decode->window;
}

enum layer_kind layer_kind_detect(const uint8_t *data, size_t length)
{
    if (length >= 2 && data[0] == 0x1f && data[1] == 0x8b) return LAYER_GZIP;
    if (length >= 4 && memcmp(data, "\x28\xb5\x2f\xfd", 4) == 0) return LAYER_ZSTD;
    /* RFC 8878, 3.1.2: a skippable frame, 0x184D2A50 to 0x184D2A5F */
    if (length >= 4 && (data[0] & 0xf0) == 0x50 && memcmp(data + 1, "\x2a\x4d\x18", 3) == 0)
        return LAYER_ZSTD;
    return LAYER_TAR;
}
