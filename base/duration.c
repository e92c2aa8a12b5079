#include "base/duration.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double milliseconds;
} units[] = { { "ns", 1e-6 }, { "us", 1e-3 },   { "µs", 1e-3 },    { "ms", 1 },
              { "s", 1000 },  { "m", 60000.0 }, { "h", 3600000.0 } };

/* At *text, which is moved on; 0: there is none. */
static double take_unit(const char **text)
{
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t length = strlen(units[i].name);
        if (strncmp(*text, units[i].name, length) != 0) continue;
        *text += length;
        return units[i].milliseconds;
    }
    return 0;
}

/* The digits at *text, with a point or without; less than 0: there are none. Not strtod(), which
 * knows more, and the locale. */
static double take_number(const char **text)
{
    double number = 0, place = 1;
    size_t whole = strspn(*text, "0123456789"), fraction = 0;
    for (size_t i = 0; i < whole; i++)
        number = number * 10 + ((*text)[i] - '0');
    *text += whole;
    if (**text == '.') {
        ++*text;
        fraction = strspn(*text, "0123456789");
        for (size_t i = 0; i < fraction; i++)
            number += ((*text)[i] - '0') * (place /= 10);
        *text += fraction;
    }
    return whole + fraction > 0 ? number : -1;
}

int duration_parse(const char *text, uint64_t *ret, struct error **error)
{
    const char *at = text;
    double sum = 0;
    if (strcmp(text, "0") == 0) {
        *ret = 0;
        return 0;
    }
    do {
        double number = take_number(&at), unit = number < 0 ? 0 : take_unit(&at);
        if (!(unit > 0))
            return error_set(error, ERROR_INVALID, "'%.40s' is no duration as '1h30m' is", text);
        sum += number * unit;
    } while (*at);
    *ret = sum < (double)DURATION_MAX_MS ? (uint64_t)sum : DURATION_MAX_MS;
    return 0;
}
