/*
 * Several ranges in one body: multipart/byteranges (RFC 9110 section 14.6, RFC 2046
 * section 5.1). Each part says which bytes it holds, so their end is known and no
 * boundary is searched for; it must be where the part ends. Stricter than RFC 2046:
 * no text before the first part, no lines that end otherwise than in CR LF.
 */
#ifndef SLUICE_FETCHER_BYTERANGES_INTERNAL_H
#define SLUICE_FETCHER_BYTERANGES_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define BYTERANGES_BOUNDARY_MAX 70u /* RFC 2046 section 5.1.1 */
#define BYTERANGES_LINE_MAX     512u
#define BYTERANGES_LINES_MAX    16u /* of one part, before its bytes */

enum byteranges_event {
    BYTERANGES_MORE,  /* what was given is used up */
    BYTERANGES_PART,  /* a part begins: `first` to `last` are set */
    BYTERANGES_BYTES, /* some of the part's bytes, in their order */
    BYTERANGES_END,   /* there is no further part; what follows is of no interest */
    BYTERANGES_WRONG, /* the error is set */
};

struct byteranges {
    uint64_t first, last; /* of the part; first <= last */
    /* The parser's own. */
    char delimiter[BYTERANGES_BOUNDARY_MAX + 3];
    size_t delimiter_length;
    enum { BYTERANGES_BEFORE, BYTERANGES_HEADERS, BYTERANGES_INSIDE, BYTERANGES_OVER } place;
    char line[BYTERANGES_LINE_MAX];
    size_t line_length;
    unsigned lines;
    bool has_range;
    uint64_t left; /* bytes of the part */
};

/* `parameters`: what follows "multipart/byteranges;" in Content-Type. */
int byteranges_begin(struct byteranges *parser, const char *parameters, struct error **error);
/* Takes something off `*data`, and tells what it was; `ret_bytes` lie in it. Not to be called again
 * after BYTERANGES_END or BYTERANGES_WRONG. */
enum byteranges_event byteranges_next(struct byteranges *parser, const uint8_t **data,
                                      size_t *length, const uint8_t **ret_bytes, size_t *ret_length,
                                      struct error **error);

#endif
