#include "node/part_fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "node/temporary_file.h"

#define PIECE_BYTES (64u << 10)
#define ATTEMPTS    3

/* 1: the bytes were wrong, with the error set, too. */
static int feed_all(struct blob_stream *stream, struct part_decoder *decoder, struct error **error)
{
    cleanup_free uint8_t *piece = malloc(PIECE_BYTES);
    ssize_t count;
    int result = 0;
    if (!piece) return error_set_memory(error);
    while (result == 0 && (count = blob_stream_read(stream, piece, PIECE_BYTES, error)) != 0) {
        if (count < 0) return -1;
        result = part_decoder_feed(decoder, piece, (size_t)count, error);
    }
    if (result == 0) result = part_decoder_finish(decoder, error);
    if (result == 0) return 0;
    /* Who made the index may have written nonsense, and then all hosts have it. */
    while ((count = blob_stream_read(stream, piece, PIECE_BYTES, NULL)) > 0)
        part_decoder_pass_over(decoder, piece, (size_t)count);
    return count == 0 && part_decoder_blob_is_wrong(decoder) ? 1 : -1;
}

static int try_once(struct registry_client *client, const struct repository *repository,
                    const struct index_part *part, const struct part_sink *sink,
                    struct error **error)
{
    struct part_decoder *decoder = NULL;
    struct blob_stream *stream = NULL;
    int result = -1;
    /* Asked for first: the decoder is ready long before the answer. */
    if (registry_open_blob(client, repository, &part->digest, part->size, &stream, error) == 0 &&
        part_decoder_new(&decoder, part, sink->write, sink->context, sink->stored, error) == 0)
        result = feed_all(stream, decoder, error);
    if (stream) blob_stream_close(stream);
    part_decoder_free(decoder);
    return result;
}

int part_fetch(struct registry_client *client, const struct repository *repository,
               const struct index_part *part, const struct part_sink *sink, struct error **error)
{
    for (unsigned attempt = 1;; attempt++) {
        struct error *failure = NULL;
        int result = try_once(client, repository, part, sink, &failure);
        if (result == 0) return 0;
        if (result > 0) registry_report_damage(client, &part->digest, 0, part->size);
        if (result < 0 || attempt == ATTEMPTS) return error_move(error, failure);
        error_free(failure);
        if (sink->restart(sink->context, error) < 0) return -1;
    }
}

/* part_write */
static int write_to_file(void *context, const void *data, size_t length, struct error **error)
{
    if (write_fully(*(const int *)context, data, length) == 0) return 0;
    return error_set_errno(error, errno, "write a temporary file");
}

static int empty_file(void *context, struct error **error)
{
    int file = *(const int *)context;
    if (ftruncate(file, 0) == 0 && lseek(file, 0, SEEK_SET) == 0) return 0;
    return error_set_errno(error, errno, "empty a temporary file");
}

int part_fetch_mapped(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct mapping **ret, struct error **error)
{
    cleanup_close int file = temporary_file_open(error);
    if (file < 0) return -1;
    struct part_sink sink = { .write = write_to_file, .restart = empty_file, .context = &file };
    if (part_fetch(client, repository, part, &sink, error) < 0) return -1;
    return mapping_new(ret, file, part->content_size, MAPPING_READ_ONLY, error);
}

/* part_write */
static int append(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

static int start_anew(void *context, struct error **error)
{
    (void)error;
    struct buffer *content = context;
    content->length = 0;
    return 0;
}

int part_fetch_buffer(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct buffer *ret, struct error **error)
{
    struct part_sink sink = { .write = append, .restart = start_anew, .context = ret };
    ret->length = 0;
    return part_fetch(client, repository, part, &sink, error);
}
