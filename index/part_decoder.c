#include "index/part_decoder.h"

#include <stdbool.h>
#include <stdlib.h>
#include <zstd.h>

#include "base/digest.h"
#include "index/part-digest-internal.h"

/* A frame may ask its decoder for a window of any size. index_part_compress() stays below this one,
 * which is also what RFC 8878 (3.1.1.1.2) recommends decoders to support. */
#define WINDOW_LOG_MAX 23

struct part_decoder {
    struct index_part part;
    part_write *write;
    void *context;
    ZSTD_DStream *stream;
    struct digest_stream *blob;
    struct part_digest *content;
    uint64_t taken, written; /* bytes of the blob, of the content */
    bool complete;           /* the frame's end was seen */
    bool blob_hashed, blob_right;
    size_t output_size;
    uint8_t output[];
};

static int refuse(const struct index_part *part, const char *why, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    return error_set(error, ERROR_INVALID, "part %s of the index %s",
                     digest_format(&part->digest, text), why);
}

int part_decoder_new(struct part_decoder **ret, const struct index_part *part, part_write *write,
                     void *context, const void *stored, struct error **error)
{
    if (part->size == 0 || part->content_size == 0 || part->content_size > PART_LENGTH_MAX)
        return refuse(part, "has an impossible size", error);
    size_t output_size = ZSTD_DStreamOutSize();
    struct part_decoder *decoder = calloc(1, sizeof *decoder + output_size);
    if (!decoder) return error_set_memory(error);
    decoder->part = *part;
    decoder->write = write;
    decoder->context = context;
    decoder->output_size = output_size;
    decoder->stream = ZSTD_createDStream();
    decoder->blob = digest_stream_new();
    if (!decoder->stream || !decoder->blob ||
        ZSTD_isError(
            ZSTD_DCtx_setParameter(decoder->stream, ZSTD_d_windowLogMax, WINDOW_LOG_MAX))) {
        part_decoder_free(decoder);
        return error_set_memory(error);
    }
    if (part_digest_new(&decoder->content, stored, part->content_size, error) < 0) {
        part_decoder_free(decoder);
        return -1;
    }
    *ret = decoder;
    return 0;
}

static int give(struct part_decoder *decoder, size_t length, struct error **error)
{
    if (length > decoder->part.content_size - decoder->written)
        return refuse(&decoder->part, "decodes to more than it says", error);
    if (length == 0) return 0;
    decoder->written += length;
    if (decoder->write(decoder->context, decoder->output, length, error) < 0) return -1;
    part_digest_add(decoder->content, decoder->output, length);
    return 0;
}

int part_decoder_feed(struct part_decoder *decoder, const void *data, size_t length,
                      struct error **error)
{
    if (length > decoder->part.size - decoder->taken)
        return refuse(&decoder->part, "is longer than it says", error);
    decoder->taken += length;
    digest_stream_update(decoder->blob, data, length);
    ZSTD_inBuffer input = { data, length, 0 };
    bool full = false; /* the decoder may hold more than fitted into the output */
    while (input.pos < input.size || full) {
        if (decoder->complete) return refuse(&decoder->part, "has bytes behind its frame", error);
        ZSTD_outBuffer output = { decoder->output, decoder->output_size, 0 };
        size_t left = ZSTD_decompressStream(decoder->stream, &output, &input);
        if (ZSTD_isError(left)) return refuse(&decoder->part, "does not decode", error);
        if (give(decoder, output.pos, error) < 0) return -1;
        decoder->complete = left == 0;
        full = output.pos == output.size && !decoder->complete;
    }
    return 0;
}

void part_decoder_pass_over(struct part_decoder *decoder, const void *data, size_t length)
{
    decoder->taken += length;
    digest_stream_update(decoder->blob, data, length);
}

bool part_decoder_blob_is_wrong(struct part_decoder *decoder)
{
    struct digest blob;
    if (!decoder->blob_hashed) {
        digest_stream_finish(decoder->blob, &blob);
        decoder->blob_right =
            decoder->taken == decoder->part.size && digest_equal(&blob, &decoder->part.digest);
        decoder->blob_hashed = true;
    }
    return !decoder->blob_right;
}

int part_decoder_finish(struct part_decoder *decoder, struct error **error)
{
    struct digest content;
    part_digest_finish(decoder->content, &content);
    if (part_decoder_blob_is_wrong(decoder))
        return refuse(&decoder->part, "does not have its digest", error);
    if (!decoder->complete || decoder->written != decoder->part.content_size)
        return refuse(&decoder->part, "does not decode to the size it says", error);
    if (!digest_equal(&content, &decoder->part.content_digest))
        return refuse(&decoder->part, "does not have its content's digest", error);
    return 0;
}

void part_decoder_free(struct part_decoder *decoder)
{
    if (!decoder) return;
    ZSTD_freeDStream(decoder->stream);
    digest_stream_free(decoder->blob);
    part_digest_free(decoder->content);
    free(decoder);
}
