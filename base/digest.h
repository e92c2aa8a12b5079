/* SHA-256 digests as the OCI image specification writes them ("sha256:" and 64 hex digits). */
#ifndef SLUICE_BASE_DIGEST_H
#define SLUICE_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DIGEST_BYTES     32
#define DIGEST_HEX_SIZE  (64 + 1)     /* lower-case hex and NUL */
#define DIGEST_TEXT_SIZE (7 + 64 + 1) /* "sha256:" hex and NUL */

struct digest {
    uint8_t bytes[DIGEST_BYTES];
};

/* Accepts "sha256:<64 lower-case hex>" only; ERROR_UNSUPPORTED for other algorithms. */
int digest_parse(struct digest *ret, const char *text, struct error **error);
/* Both return `text`. */
char *digest_format(const struct digest *digest, char text[DIGEST_TEXT_SIZE]);
char *digest_format_hex(const struct digest *digest, char text[DIGEST_HEX_SIZE]);
bool digest_equal(const struct digest *left, const struct digest *right);
/* The digest of `length` bytes at once. */
void digest_of(const void *data, size_t length, struct digest *ret);

/* In an order of their own, for digests_have(). */
void digests_sort(struct digest *digests, size_t count);
bool digests_have(const struct digest *sorted, size_t count, const struct digest *digest);

/* The digest of a stream. */
struct digest_stream;
struct digest_stream *digest_stream_new(void); /* NULL: out of memory */
void digest_stream_update(struct digest_stream *stream, const void *data, size_t length);
/* Gives the digest and starts anew, for the next stream. */
void digest_stream_finish(struct digest_stream *stream, struct digest *ret);
void digest_stream_free(struct digest_stream *stream);

#endif
