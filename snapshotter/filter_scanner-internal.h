/* The words of a filter (filters-internal.h). */
#ifndef SLUICE_SNAPSHOTTER_FILTER_SCANNER_INTERNAL_H
#define SLUICE_SNAPSHOTTER_FILTER_SCANNER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

enum filter_token {
    FILTER_END,
    FILTER_FIELD,     /* letters, digits and "_" */
    FILTER_VALUE,     /* what stands bare after an operator */
    FILTER_QUOTED,    /* with its quotes */
    FILTER_SEPARATOR, /* "," or "." */
    FILTER_OPERATOR,  /* a run of "=", "!" and "~" */
    FILTER_ILLEGAL,
};

struct filter_scanner {
    const char *text; /* not owned */
    size_t position;
    bool after_operator;
};

/* Skips white space before it. The token's bytes are text + *ret_start up to position. */
enum filter_token filter_scan(struct filter_scanner *scanner, size_t *ret_start);
/* The next byte as it is, white space included; 0 at the end. */
char filter_peek(const struct filter_scanner *scanner);
/* What a quoted token means, with the escapes of Go's strings, in fresh memory. NULL: out of
 * memory, or (`*ret_valid` false) an escape that is none. */
char *filter_unquote(const char *token, size_t length, bool *ret_valid);

#endif
