/* One line for people, and the kind of error, for what went wrong in an exchange. */
#ifndef SLUICE_FETCHER_ANSWER_ERROR_INTERNAL_H
#define SLUICE_FETCHER_ANSWER_ERROR_INTERNAL_H

#include <curl/curl.h>
#include <stdbool.h>

#include "fetcher/request-internal.h"

/* For an exchange that ended without a whole answer. Returns -1. */
int transport_error(const struct request *request, CURLcode code, struct error **error);
/* Another attempt would fail the same way. */
bool transport_is_hopeless(const struct request *request, CURLcode code);

/* For an answer whose status is no success. Returns -1. */
int answer_error(const struct request *request, struct error **error);
/* The same question may be answered well a little later: as far as the status tells, and all of the
 * answer. */
bool status_is_transient(long status);
bool answer_is_transient(const struct request *request);

#endif
