/*
 * The blob of an index's part (metadata, a chunk table, an entry table), decoded while it arrives.
 * Memory does not depend on what the part or its frame claims: a few MiB.
 */
#ifndef SLUICE_INDEX_PART_DECODER_H
#define SLUICE_INDEX_PART_DECODER_H

#include <stdbool.h>

#include <stddef.h>

#include "base/error.h"
#include "index/artifact.h"

struct part_decoder;

/* Takes decoded bytes in their order. They are not verified before part_decoder_finish(). */
typedef int part_write(void *context, const void *data, size_t length, struct error **error);

/* `part` is copied. `stored` is where written bytes can be read, one after the other, until
 * part_decoder_free() returns: the content's digest is then that of the bytes there, and is
 * computed beside the decoding. NULL: it is that of the bytes given to `write`. ERROR_INVALID where
 * the part's sizes are none that a part can have. */
int part_decoder_new(struct part_decoder **ret, const struct index_part *part, part_write *write,
                     void *context, const void *stored, struct error **error);
/* The blob's next bytes. Never writes more than the part's content_size. */
int part_decoder_feed(struct part_decoder *decoder, const void *data, size_t length,
                      struct error **error);
/* Nothing more comes: 0 where the blob was one whole zstd frame and both digests and both sizes
 * are those of the part. */
int part_decoder_finish(struct part_decoder *decoder, struct error **error);
/* After a failure, for who wants to know whose it is: the rest of the blob, then whether the blob
 * was not the one that the index names. */
void part_decoder_pass_over(struct part_decoder *decoder, const void *data, size_t length);
bool part_decoder_blob_is_wrong(struct part_decoder *decoder);
void part_decoder_free(struct part_decoder *decoder);

#endif
