/*
 * Decodes gzip data (any number of members) with ISA-L, from the start of a
 * member or from a checkpoint inside one. Checksums of members are not looked
 * at: chunks have digests.
 */
#ifndef SLUICE_INDEX_GZIP_DECODER_H
#define SLUICE_INDEX_GZIP_DECODER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct gzip_decoder;

/* From the first byte of a member. NULL: out of memory. */
struct gzip_decoder *gzip_decoder_new(void);
/* From a deflate block `bits` (0 to 7) bits into the first byte that is fed, with the
 * GZIP_WINDOW_LENGTH bytes of the stream before it (copied). NULL: out of memory. */
struct gzip_decoder *gzip_decoder_new_at(const uint8_t *window, unsigned bits);

/* Takes from *data / *length and fills `out` up to `capacity`; returns how many bytes it wrote, or
 * -1. It stops when the input is used up or the output is full. Bytes behind the last member that
 * are no member are passed over. */
ssize_t gzip_decoder_run(struct gzip_decoder *decoder, const uint8_t **data, size_t *length,
                         uint8_t *out, size_t capacity, struct error **error);
void gzip_decoder_free(struct gzip_decoder *decoder);

#endif
