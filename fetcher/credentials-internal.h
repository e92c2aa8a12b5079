/* Credentials as requests need them. */
#ifndef SLUICE_FETCHER_CREDENTIALS_INTERNAL_H
#define SLUICE_FETCHER_CREDENTIALS_INTERNAL_H

#include "fetcher/credentials.h"
#include "fetcher/registry.h"

/* "user:password" in base64, as RFC 7617 wants it behind "Basic "; NULL: out of memory. To be
 * freed with secret_free(). */
char *credentials_basic(const struct credentials *credentials);

/* By somebody else's search. What goes wrong is told in ret->problem. Not on the transfer thread.
 */
void credentials_ask(registry_credentials *ask, void *context,
                     const struct credentials_question *question, int cancel_descriptor,
                     struct credentials *ret);

#endif
