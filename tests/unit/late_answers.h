/*
 * A client that asks nobody twice because an answer is late (test_registry_stragglers.c does): on a
 * busy machine that would add to the requests that tests count.
 */
#ifndef SLUICE_TESTS_LATE_ANSWERS_H
#define SLUICE_TESTS_LATE_ANSWERS_H

#include "fetcher/client-internal.h"

/* Before its first request. */
static inline void wait_for_late_answers(struct registry_client *client)
{
    client->repeats.spent = 1u << 30;
}

#endif
