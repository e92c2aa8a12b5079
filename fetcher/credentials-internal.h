/*
 * What a person has stored for a registry with `docker login`: found through
 * docker's configuration file and the credential helpers it names.
 */
#ifndef SLUICE_FETCHER_CREDENTIALS_INTERNAL_H
#define SLUICE_FETCHER_CREDENTIALS_INTERNAL_H

#include <stdbool.h>

#include "fetcher/registry.h"

/* Everything NULL: there are none. All strings are owned. */
struct credentials {
    char *user;
    char *password;
    char *identity_token; /* an OAuth2 refresh token; then there is no password */
    char *problem;        /* one line: why the search may have missed some; no secrets */
};

static inline bool credentials_are_known(const struct credentials *credentials)
{
    return credentials->identity_token || (credentials->user && credentials->password);
}

/* Overwrites the secrets before it frees them. */
void credentials_free(struct credentials *credentials);
/* The same for one string; NULL is fine. */
void secret_free(char *secret);

/* "user:password" in base64, as RFC 7617 wants it behind "Basic "; NULL: out of memory. To be
 * freed with secret_free(). */
char *credentials_basic(const struct credentials *credentials);

/*
 * Searches for the credentials of `registry`. May run a helper program and take
 * up to 30 s, so never on the transfer thread; ends early when
 * `cancel_descriptor` becomes readable. What goes wrong is told in
 * ret->problem, because anonymous access may still be enough.
 */
void credentials_search(const char *registry, int cancel_descriptor, struct credentials *ret);
/* The same by somebody else's search (credentials_text.c). */
void credentials_ask(registry_credentials *ask, void *context, const char *registry,
                     int cancel_descriptor, struct credentials *ret);

#endif
