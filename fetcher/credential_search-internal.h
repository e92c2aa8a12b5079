/* Runs a search for credentials on a thread of its own: it reads files and waits for programs. */
#ifndef SLUICE_FETCHER_CREDENTIAL_SEARCH_INTERNAL_H
#define SLUICE_FETCHER_CREDENTIAL_SEARCH_INTERNAL_H

#include "base/error.h"

struct login;
struct credential_search;

/* Both on the transfer thread. Sets login->search until the end; then login->credentials and
 * login->searched, and calls `searched`. */
int credential_search_start(struct login *login, void (*searched)(struct login *login),
                            struct error **error);
/* Ends it early and waits for its thread; `searched` is still called. */
void credential_search_stop(struct credential_search *search);

#endif
