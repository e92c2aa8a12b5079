/* Decodes a whole blob forward into a chunk_builder, telling it where the checkpoints are. */
#ifndef SLUICE_INDEX_LAYER_DECODE_H
#define SLUICE_INDEX_LAYER_DECODE_H

#include "base/error.h"
#include "index/chunk_builder.h"
#include "index/chunk_table.h"

struct layer_decode;

/* `kind` as layer_kind_detect() says. NULL: error is set. */
struct layer_decode *layer_decode_new(enum layer_kind kind, struct chunk_builder *builder,
                                      struct error **error);
void layer_decode_free(struct layer_decode *decode);

/* The next bytes of the blob. 0; 1: the builder wants no more (its consumer has the error); -1. */
int layer_decode_feed(struct layer_decode *decode, const uint8_t *data, size_t length,
                      struct error **error);
/* The blob has ended: an error when it is cut short. */
int layer_decode_finish(struct layer_decode *decode, struct error **error);

/* struct chunk_table's decoder_window, after the end. */
uint32_t layer_decode_window(const struct layer_decode *decode);

/* What a blob is by its first bytes (at least 4, unless the blob is shorter), as containerd decides
 * it. */
enum layer_kind layer_kind_detect(const uint8_t *data, size_t length);

#endif
