#include "deploytool/part_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"

#define PIECE_BYTES (64u << 10)

static int feed_all(struct blob_stream *stream, struct part_decoder *decoder, struct error **error)
{
    cleanup_free uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece) return error_set_memory(error);
    for (;;) {
        ssize_t count = blob_stream_read(stream, piece, PIECE_BYTES, error);
        if (count < 0) return -1;
        if (count == 0) return part_decoder_finish(decoder, error);
        if (part_decoder_feed(decoder, piece, (size_t)count, error) < 0) return -1;
    }
}

int part_fetch(struct registry_client *client, const struct repository *repository,
               const struct index_part *part, part_write *write, void *context,
               struct error **error)
{
    struct part_decoder *decoder = NULL;
    struct blob_stream *stream = NULL;
    int result = -1;
    if (part_decoder_new(&decoder, part, write, context, error) == 0 &&
        registry_open_blob(client, repository, &part->digest, part->size, &stream, error) == 0)
        result = feed_all(stream, decoder, error);
    if (stream) blob_stream_close(stream);
    part_decoder_free(decoder);
    return result;
}

/* part_write */
static int write_to_file(void *context, const void *data, size_t length, struct error **error)
{
    if (write_fully(*(const int *)context, data, length) == 0) return 0;
    return error_set_errno(error, errno, "write a temporary file");
}

int part_fetch_mapped(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct mapping **ret, struct error **error)
{
    const char *directory = getenv("TMPDIR");
    if (!directory || directory[0] != '/') directory = "/var/tmp";
    cleanup_close int file = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) {
        error_set_errno(error, errno, "make a temporary file in '%s'", directory);
        return error_hint(error, "TMPDIR names another directory");
    }
    if (part_fetch(client, repository, part, write_to_file, &file, error) < 0) return -1;
    return mapping_new(ret, file, part->content_size, MAPPING_READ_ONLY, error);
}
