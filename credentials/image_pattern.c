#include "credentials/image_pattern.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct place {
    const char *host;
    size_t host_length;
    const char *port; /* behind the colon */
    size_t port_length;
    const char *path; /* from the slash on; "" where there is none */
};

static struct place split(const char *text)
{
    struct place place = { .host = text, .port = "" };
    size_t length = strcspn(text, "/");
    place.path = text + length;
    const char *colon = memrchr(text, ':', length), *bracket = memrchr(text, ']', length);
    if (colon && bracket && bracket > colon) colon = NULL;
    place.host_length = colon ? (size_t)(colon - text) : length;
    if (colon) {
        place.port = colon + 1;
        place.port_length = length - place.host_length - 1;
    }
    return place;
}

/* '*' stands for any bytes, '?' for one. A star that was passed is where it goes on after a
 * mismatch: earlier ones need not be tried again. */
static bool part_matches(const char *glob, size_t glob_length, const char *text, size_t length)
{
    size_t at = 0, position = 0, star = SIZE_MAX, resumed = 0;
    while (position < length) {
        if (at < glob_length && glob[at] == '*') {
            star = at++;
            resumed = position;
        } else if (at < glob_length &&
                   (glob[at] == '?' || strncasecmp(&glob[at], &text[position], 1) == 0)) {
            at++;
            position++;
        } else if (star != SIZE_MAX) {
            at = star + 1;
            position = ++resumed;
        } else {
            return false;
        }
    }
    while (at < glob_length && glob[at] == '*')
        at++;
    return at == glob_length;
}

static size_t part_length(const char *host, size_t length)
{
    const char *dot = memchr(host, '.', length);
    return dot ? (size_t)(dot - host) : length;
}

static bool host_matches(const char *glob, size_t glob_length, const char *host, size_t length)
{
    for (;;) {
        size_t wanted = part_length(glob, glob_length), part = part_length(host, length);
        if (!part_matches(glob, wanted, host, part)) return false;
        if (wanted == glob_length || part == length) return wanted == glob_length && part == length;
        glob += wanted + 1;
        glob_length -= wanted + 1;
        host += part + 1;
        length -= part + 1;
    }
}

static const char *without_scheme(const char *pattern)
{
    if (strncasecmp(pattern, "https://", 8) == 0) return pattern + 8;
    if (strncasecmp(pattern, "http://", 7) == 0) return pattern + 7;
    return pattern;
}

static const char *without_version(const char *path)
{
    bool versioned = strncmp(path, "/v1", 3) == 0 || strncmp(path, "/v2", 3) == 0;
    return versioned && (path[3] == '/' || path[3] == '\0') ? path + 3 : path;
}

bool image_pattern_matches(const char *pattern, const char *image)
{
    struct place wanted = split(without_scheme(pattern)), place = split(image);
    wanted.path = without_version(wanted.path);
    return wanted.port_length == place.port_length &&
           memcmp(wanted.port, place.port, place.port_length) == 0 &&
           strncmp(wanted.path, place.path, strlen(wanted.path)) == 0 &&
           host_matches(wanted.host, wanted.host_length, place.host, place.host_length);
}
