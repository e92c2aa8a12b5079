#include "index/frame_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/parallel.h"
#include "index/frame_mark.h"

/* Frames are made in rounds of so many, and written in their order after each. */
#define ROUND 48u

struct frame {
    uint8_t *plain;
    size_t plain_length;
    uint8_t *packed;
    size_t packed_length;
};

struct frame_writer {
    const struct frame_plan *plan;
    const uint8_t *old_stream;
    int level;
    size_t first; /* frame of the round */
    struct frame frames[ROUND];
    int file;
    struct digest_stream *blob_digest, *stream_digest;
    uint64_t length;
};

static void frame_writer_free(struct frame_writer *writer)
{
    if (!writer) return;
    for (unsigned i = 0; i < ROUND; i++) {
        free(writer->frames[i].plain);
        free(writer->frames[i].packed);
    }
    digest_stream_free(writer->blob_digest);
    digest_stream_free(writer->stream_digest);
    free(writer);
}

static inline void cleanup_writer_function(struct frame_writer **writer)
{
    frame_writer_free(*writer);
}

static struct frame_writer *frame_writer_new(void)
{
    struct frame_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return NULL;
    writer->blob_digest = digest_stream_new();
    writer->stream_digest = digest_stream_new();
    bool complete = writer->blob_digest && writer->stream_digest;
    for (unsigned i = 0; i < ROUND; i++) {
        writer->frames[i].plain = malloc(FRAME_LENGTH_MAX);
        writer->frames[i].packed = malloc(ZSTD_compressBound(FRAME_LENGTH_MAX));
        if (!writer->frames[i].plain || !writer->frames[i].packed) complete = false;
    }
    if (complete) return writer;
    frame_writer_free(writer);
    return NULL;
}

/* parallel_work */
static int pack_frame(void *context, size_t position, struct error **error)
{
    struct frame_writer *writer = context;
    struct frame *frame = &writer->frames[position];
    frame->plain_length =
        frame_plan_gather(writer->plan, writer->first + position, writer->old_stream, frame->plain);
    /* A header with the content's length, and no checksum: each chunk has a digest. */
    frame->packed_length = ZSTD_compress(frame->packed, ZSTD_compressBound(FRAME_LENGTH_MAX),
                                         frame->plain, frame->plain_length, writer->level);
    return ZSTD_isError(frame->packed_length) ? error_set_memory(error) : 0;
}

static int write_bytes(struct frame_writer *writer, const void *data, size_t length,
                       struct error **error)
{
    digest_stream_update(writer->blob_digest, data, length);
    writer->length += length;
    if (write_fully(writer->file, data, length) == 0) return 0;
    return error_set_errno(error, errno, "write a temporary file");
}

static int write_round(struct frame_writer *writer, size_t count, struct error **error)
{
    for (size_t i = 0; i < count; i++) {
        const struct frame *frame = &writer->frames[i];
        digest_stream_update(writer->stream_digest, frame->plain, frame->plain_length);
        if (write_bytes(writer, frame->packed, frame->packed_length, error) < 0) return -1;
        if (writer->first + i == 0 && writer->plan->frame_count > 1 &&
            write_bytes(writer, frame_mark, FRAME_MARK_LENGTH, error) < 0)
            return -1;
    }
    return 0;
}

/* A blob without a frame would be no zstd. */
static int write_empty(struct frame_writer *writer, struct error **error)
{
    struct frame *frame = &writer->frames[0];
    size_t length = ZSTD_compress(frame->packed, ZSTD_compressBound(0), "", 0, writer->level);
    if (ZSTD_isError(length)) return error_set_memory(error);
    return write_bytes(writer, frame->packed, length, error);
}

int frame_writer_run(const struct frame_plan *plan, const struct mapping *old_stream, int level,
                     unsigned threads, int file, struct written_blob *ret, struct error **error)
{
    __attribute__((cleanup(cleanup_writer_function))) struct frame_writer *writer =
        frame_writer_new();
    if (!writer) return error_set_memory(error);
    writer->plan = plan;
    writer->old_stream = old_stream ? mapping_data(old_stream) : NULL;
    writer->level = level;
    writer->file = file;
    if (plan->frame_count == 0 && write_empty(writer, error) < 0) return -1;
    while (writer->first < plan->frame_count) {
        size_t count = plan->frame_count - writer->first;
        if (count > ROUND) count = ROUND;
        if (parallel_run(count, threads, pack_frame, writer, error) < 0) return -1;
        if (old_stream && mapping_is_damaged(old_stream))
            return error_set(error, ERROR_SYSTEM, "a temporary file cannot be read");
        if (write_round(writer, count, error) < 0) return -1;
        writer->first += count;
    }
    ret->length = writer->length;
    digest_stream_finish(writer->blob_digest, &ret->digest);
    digest_stream_finish(writer->stream_digest, &ret->stream_digest);
    return 0;
}
