#include "snapshotter/id_mapping-internal.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Decimal digits only, up to the largest id; the last value is none (-1). */
static bool read_number(const char **text, char end, uint32_t *ret)
{
    char *after;
    if (**text < '0' || **text > '9') return false;
    errno = 0;
    unsigned long long value = strtoull(*text, &after, 10);
    if (errno || value >= UINT32_MAX) return false;
    if (*after == end && after[1])
        after++;
    else if (end != ',' || *after)
        return false;
    *ret = (uint32_t)value;
    *text = after;
    return true;
}

int id_mapping_root(const char *mapping, id_t *ret, struct error **error)
{
    const char *text = mapping;
    bool found = false;
    do {
        uint32_t container, host, size;
        if (!read_number(&text, ':', &container) || !read_number(&text, ':', &host) ||
            !read_number(&text, ',', &size))
            return error_set(error, ERROR_INVALID, "'%s' is no mapping of ids", mapping);
        if (!found && container == 0 && size > 0) {
            *ret = host;
            found = true;
        }
    } while (*text);
    if (found) return 0;
    return error_set(error, ERROR_INVALID, "'%s' does not map id 0", mapping);
}
