#include "snapshotter/id_mapping-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/cleanup.h"

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

struct range {
    uint32_t container, host, size;
};

static int read_range(const char *mapping, const char **text, struct range *ret,
                      struct error **error)
{
    if (read_number(text, ':', &ret->container) && read_number(text, ':', &ret->host) &&
        read_number(text, ',', &ret->size))
        return 0;
    return error_set(error, ERROR_INVALID, "'%s' is no mapping of ids", mapping);
}

int id_mapping_root(const char *mapping, id_t *ret, struct error **error)
{
    const char *text = mapping;
    bool found = false;
    do {
        struct range range = { 0 };
        if (read_range(mapping, &text, &range, error) < 0) return -1;
        if (!found && range.container == 0 && range.size > 0) {
            *ret = range.host;
            found = true;
        }
    } while (*text);
    if (found) return 0;
    return error_set(error, ERROR_INVALID, "'%s' does not map id 0", mapping);
}

static int append_line(struct buffer *lines, const struct range *range)
{
    char line[3 * sizeof "4294967295"];
    int length = snprintf(line, sizeof line, "%" PRIu32 " %" PRIu32 " %" PRIu32 "\n",
                          range->container, range->host, range->size);
    return buffer_append(lines, line, (size_t)length);
}

char *id_mapping_lines(const char *mapping, struct error **error)
{
    cleanup_buffer struct buffer lines = { 0 };
    const char *text = mapping;
    int result = 0;
    do {
        struct range range = { 0 };
        if (read_range(mapping, &text, &range, error) < 0) return NULL;
        result = append_line(&lines, &range);
    } while (result == 0 && *text);
    if (result == 0 && buffer_append_u8(&lines, 0) == 0) return (char *)take_pointer(&lines.data);
    error_set_memory(error);
    return NULL;
}
