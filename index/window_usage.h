/*
 * Which bytes of a gzip window the data behind a checkpoint refers to. The
 * others may be zero, and then a window costs next to nothing.
 */
#ifndef SLUICE_INDEX_WINDOW_USAGE_H
#define SLUICE_INDEX_WINDOW_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "index/chunk_table.h"

/* How much of the blob behind a checkpoint is enough to find the usage; where it is not (blocks of
 * hardly any content), every byte of the window counts as used. */
#define WINDOW_USAGE_SAMPLE_MAX (128u << 10)

struct window_usage;
struct window_usage *window_usage_new(void); /* NULL: out of memory */
void window_usage_free(struct window_usage *usage);

/* Sets those bytes of `window` to zero that are not used by the deflate data in `sample`, which
 * starts `bits` bits into its first byte. `sample_ends` tells that no blob byte follows. */
void window_usage_clear_unused(struct window_usage *usage, uint8_t window[GZIP_WINDOW_LENGTH],
                               unsigned bits, const uint8_t *sample, size_t sample_length,
                               bool sample_ends);

#endif
