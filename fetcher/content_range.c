#include "fetcher/content_range-internal.h"

#include <string.h>
#include <strings.h>

static bool take_number(const char **at, uint64_t *ret)
{
    const char *from = *at;
    uint64_t value = 0;
    for (; **at >= '0' && **at <= '9'; ++*at) {
        if (*at - from >= 18) return false;
        value = value * 10 + (uint64_t)(**at - '0');
    }
    *ret = value;
    return *at > from;
}

bool content_range_parse(const char *text, uint64_t *ret_first, uint64_t *ret_last)
{
    uint64_t length;
    if (strncasecmp(text, "bytes ", 6) != 0) return false;
    text += 6;
    if (!take_number(&text, ret_first) || *text++ != '-') return false;
    if (!take_number(&text, ret_last) || *text++ != '/') return false;
    if (strcmp(text, "*") == 0) return true;
    return take_number(&text, &length) && !*text && *ret_last < length;
}
