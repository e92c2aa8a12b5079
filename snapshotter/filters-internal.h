/*
 * containerd's filters (its pkg/filters, grammar in parser.go): selectors joined by "," that must
 * all hold, as `labels."a b"==c,parent==d`. A selector is a field path alone (it is there), or one
 * with "==", "!=" or "~=" (a regular expression) and a value. Names and values may be quoted by
 * `"`, and regular expressions by "/" or "|" too. Fields: kind, name, parent, labels.KEY.
 */
#ifndef SLUICE_SNAPSHOTTER_FILTERS_INTERNAL_H
#define SLUICE_SNAPSHOTTER_FILTERS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "snapshotter/snapshotter.h"

struct filters;

/* ERROR_INVALID says where it stopped to make sense. A regular expression that is none matches
 * nothing, as in containerd. */
int filters_parse(struct filters **ret, const char *const *texts, size_t count,
                  struct error **error);
/* Whether one of them holds; always when there are none. */
bool filters_match(const struct filters *filters, const struct snapshot_info *info);
void filters_free(struct filters *filters);

static inline void cleanup_filters_function(struct filters **filters)
{
    filters_free(*filters);
}
#define cleanup_filters __attribute__((cleanup(cleanup_filters_function)))

#endif
