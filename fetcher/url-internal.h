/* What has to be decided about the addresses that registries send clients to. */
#ifndef SLUICE_FETCHER_URL_INTERNAL_H
#define SLUICE_FETCHER_URL_INTERNAL_H

#include <stdbool.h>

#include "base/error.h"

#define URL_LIMIT      16384
#define URL_HOST_LIMIT 300

/*
 * What `location` (absolute or relative, from an answer to `base`) points to,
 * in fresh memory. ERROR_INVALID: not a URL, not http or https, holds a user, or
 * leads from https to http. Errors show the host at the most.
 */
char *url_resolve(const char *base, const char *location, struct error **error);

/* The same scheme, host and port: only there an Authorization header may be seen again. */
bool url_same_origin(const char *left, const char *right);
/* Host and, where it is given, port, for people; "?" when `url` is none. Returns `ret`. */
const char *url_host(const char *url, char ret[URL_HOST_LIMIT]);
/* True where `url` leads to this machine itself. */
bool url_is_loopback(const char *url);
bool url_is_https(const char *url);

/* `url` with "name=value" added to its query, the value percent-encoded, in fresh memory; frees
 * `url`. NULL in, or out of memory: NULL. */
char *url_add_query(char *url, const char *name, const char *value);

#endif
