/*
 * The SHA-256 of what a part decodes to. Where the bytes can be read after they have been written,
 * they are hashed there, by a thread of its own: that takes as long as decoding does.
 */
#ifndef SLUICE_INDEX_PART_DIGEST_INTERNAL_H
#define SLUICE_INDEX_PART_DIGEST_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"

struct part_digest;

/* `stored` (or NULL) is where the bytes are once they are added, `length` of them at the most. */
int part_digest_new(struct part_digest **ret, const uint8_t *stored, uint64_t length,
                    struct error **error);
/* The next bytes; with `stored` they are looked at there, and perhaps later. */
void part_digest_add(struct part_digest *digest, const uint8_t *bytes, size_t length);
/* Of all; nothing is added any more. */
void part_digest_finish(struct part_digest *digest, struct digest *ret);
/* `stored` is not looked at any more when this returns. */
void part_digest_free(struct part_digest *digest);

#endif
