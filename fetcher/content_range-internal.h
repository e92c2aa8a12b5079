/* Content-Range: which bytes of a blob an answer holds (RFC 9110 section 14.4). */
#ifndef SLUICE_FETCHER_CONTENT_RANGE_INTERNAL_H
#define SLUICE_FETCHER_CONTENT_RANGE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

/* "bytes first-last/length" or "bytes first-last/ *" (without the space). False: anything else. */
bool content_range_parse(const char *text, uint64_t *ret_first, uint64_t *ret_last);

#endif
