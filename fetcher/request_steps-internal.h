/*
 * The steps of a request's state machine, on the transfer thread.
 *
 *   request.c           its beginning and its end
 *   request_attempt.c   which host is asked, what its failure means for it, and when all are asked
 *                       again
 *   request_exchange.c  a question to one host, its authorization, redirects and answer
 *
 * Where a step ends the request, that is over, and may have been freed, when the function returns.
 */
#ifndef SLUICE_FETCHER_REQUEST_STEPS_INTERNAL_H
#define SLUICE_FETCHER_REQUEST_STEPS_INTERNAL_H

#include "fetcher/request-internal.h"

/* Takes the request out of whatever it waits for. */
void request_rest(struct request *request);
/* Takes `error` (NULL: success). The request may be gone afterwards. */
void request_finish(struct request *request, struct error *error);
void request_finish_without_memory(struct request *request);

void request_prepare_attempts(struct request *request);
/* Asks the host that comes first. */
void request_begin_attempt(struct request *request);
/* Takes `error`: asks the next host, or all of them again later, or fails. `final`: this host would
 * say the same again. */
void request_host_failed(struct request *request, struct error *error, bool final);
/* Somebody else can be asked where this host does not answer well. */
bool request_is_spared(const struct request *request);

/* Sends the request to `url` (taken over; NULL: out of memory). */
void request_go_to(struct request *request, char *url);

#endif
