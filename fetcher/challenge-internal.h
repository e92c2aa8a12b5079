/*
 * The WWW-Authenticate header: RFC 9110 section 11.6.1, with the parameters of
 * https://distribution.github.io/distribution/spec/auth/token/. The value comes
 * from a registry and is hostile.
 */
#ifndef SLUICE_FETCHER_CHALLENGE_INTERNAL_H
#define SLUICE_FETCHER_CHALLENGE_INTERNAL_H

#include <stdbool.h>

#define CHALLENGE_LIMIT 8192 /* a longer header value holds no challenge for us */

/* What was not said is NULL; all strings are owned. */
struct challenge {
    char *realm;
    char *service;
    char *scope;
};

/* Finds the first challenge of `scheme` ("Bearer", "Basic"; case does not matter) in one header's
 * value, which may hold several. False when there is none, when it is malformed before
 * its end, or when memory is short. */
bool challenge_find(const char *value, const char *scheme, struct challenge *ret);
void challenge_free(struct challenge *challenge);

#endif
