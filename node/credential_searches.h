/*
 * Searches for credentials on behalf of a server that holds none. Each has a thread of its own,
 * because a helper may take its time, and ends when the socket for its answer is closed.
 */
#ifndef SLUICE_NODE_CREDENTIAL_SEARCHES_H
#define SLUICE_NODE_CREDENTIAL_SEARCHES_H

#include <pthread.h>
#include <stdbool.h>

#include "fetcher/registry.h"

struct credential_searches {
    registry_credentials *find; /* NULL: credentials_search() */
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned under_way;
};

void credential_searches_init(struct credential_searches *searches, registry_credentials *find,
                              void *context);
/* Answers the question (credentials_question_format()) at `*to`, which it takes over if it starts a
 * search. */
void credential_searches_begin(struct credential_searches *searches, const char *question, int *to);
/* Waits until none is under way. Not for long: a home directory on a server that does not answer
 * may hold a search up for ever. False: one goes on, and uses `searches`. */
bool credential_searches_end(struct credential_searches *searches);

#endif
