/* Runs credentials_search() on a thread of its own: it reads files and waits for programs. */
#ifndef SLUICE_FETCHER_CREDENTIAL_SEARCH_INTERNAL_H
#define SLUICE_FETCHER_CREDENTIAL_SEARCH_INTERNAL_H

#include "base/error.h"

struct registry_host;
struct credential_search;

/* Both on the transfer thread. Sets host->search until the end; then host->credentials and
 * host->searched, and calls `searched`. */
int credential_search_start(struct registry_host *host,
                            void (*searched)(struct registry_host *host), struct error **error);
/* Ends it early and waits for its thread; `searched` is still called. */
void credential_search_stop(struct credential_search *search);

#endif
