/* docker-credential-NAME programs: https://github.com/docker/docker-credential-helpers. */
#ifndef SLUICE_FETCHER_CREDENTIAL_HELPER_INTERNAL_H
#define SLUICE_FETCHER_CREDENTIAL_HELPER_INTERNAL_H

#include "base/error.h"
#include "fetcher/credentials.h"

/*
 * Runs "docker-credential-`name` get" from PATH for `server`. 1: found, 0: the
 * helper knows none, -1: error, which never quotes what the helper wrote.
 * Ends the helper after `timeout_ms`, or when `cancel_descriptor` (or -1)
 * becomes readable (ERROR_CANCELLED).
 */
int credential_helper_get(const char *name, const char *server, int cancel_descriptor,
                          unsigned timeout_ms, struct credentials *ret, struct error **error);

#endif
