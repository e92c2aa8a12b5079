/*
 * A run of a blob's bytes that arrives in one or more answers: by a range
 * (RFC 9110 section 14), or out of a whole blob where a server ignores the range.
 */
#ifndef SLUICE_FETCHER_RANGED_INTERNAL_H
#define SLUICE_FETCHER_RANGED_INTERNAL_H

#include "fetcher/request-internal.h"

struct ranged {
    uint64_t offset, length; /* what is still missing */
    uint64_t skip;           /* bytes of this answer before it */
    uint64_t received;       /* bytes of this answer */
    uint64_t skip_limit;     /* more of a whole blob is not read to come to what is missing */
};

/* A 2xx answer begins: does it hold what is missing? `whole` is the blob's length where it is known
 * and no range was asked for, else 0. */
int ranged_begin(struct ranged *ranged, struct request *request, uint64_t whole,
                 struct error **error);
/* Of `*length` bytes at `*data`: those that are wanted. Changes nothing else. */
void ranged_trim(const struct ranged *ranged, const uint8_t **data, size_t *length);
/* `length` bytes, as they came, were taken; the next attempt asks for the rest. True while the
 * answer is worth reading on. */
bool ranged_advance(struct ranged *ranged, struct request *request, size_t length);
/* The answer is over: 0 when nothing is missing. */
int ranged_end(const struct ranged *ranged, struct error **error);

#endif
