/*
 * Who may ask: what a registry wants (nothing, Basic, a Bearer token), the
 * stored credentials, the tokens. On the transfer thread only. The token flow:
 * https://distribution.github.io/distribution/spec/auth/token/ and, with an identity token,
 * https://distribution.github.io/distribution/spec/auth/oauth/.
 */
#ifndef SLUICE_FETCHER_AUTHORIZATION_INTERNAL_H
#define SLUICE_FETCHER_AUTHORIZATION_INTERNAL_H

#include "fetcher/login-internal.h"
#include "fetcher/request-internal.h"

enum authorization {
    AUTHORIZED,            /* request->authorization is set, or nothing is known to be wanted */
    AUTHORIZATION_AWAITED, /* request_authorized() or request_fail() follows */
    AUTHORIZATION_FAILED,  /* the error is set */
};

/* Before a request is sent to its registry. */
enum authorization authorize(struct request *request, struct error **error);
/* After it was answered 401. */
enum authorization authorize_again(struct request *request, struct error **error);
/* "; there are no credentials for ...; run ..." behind an error that says who refused. */
void authorization_hint(const struct request *request, struct error **error);

/* token.c: asks for `token` with the credentials of its login, if there are any. token_arrived() or
 * token_failed() follows unless it fails at once. */
int token_fetch(struct token *token, struct error **error);
/* `value` is taken over. */
void token_arrived(struct token *token, char *value, uint64_t asked, uint64_t lifetime_ms);
/* `error` is taken over. */
void token_failed(struct token *token, struct error *error);

#endif
