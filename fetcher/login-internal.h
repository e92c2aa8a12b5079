/*
 * What a host is shown for the requests to one of its repositories: credentials, which may differ
 * from repository to repository, and the tokens that were had with them. On the transfer thread
 * only.
 */
#ifndef SLUICE_FETCHER_LOGIN_INTERNAL_H
#define SLUICE_FETCHER_LOGIN_INTERNAL_H

#include "fetcher/credentials.h"
#include "fetcher/host-internal.h"
#include "fetcher/request-internal.h"

struct token {
    struct login *login;
    enum access access;
    char *realm, *service, *scope; /* as the registry's last challenge said; NULL: none yet */
    char *value;                   /* NULL: none */
    uint64_t obtained, until;      /* clock_ms() */
    enum token_state {
        TOKEN_AT_REST,
        TOKEN_NEEDS_CREDENTIALS, /* they are being searched for */
        TOKEN_ASKED_FOR,
    } state;
    struct request_list waiting;
};

struct login {
    TAILQ_ENTRY(login) link;
    struct registry_host *host;
    char *repository;
    struct credentials credentials;
    uint64_t searched;                /* clock_ms() of the search's end; 0: not yet */
    struct credential_search *search; /* NULL: none is running */
    bool basic;                       /* the host wants Basic */
    bool was_refused;                 /* then, by fingerprint: */
    struct digest refused;
    struct request_list waiting; /* for credentials, to be sent with Basic */
    struct token pull, push;
};

/* Of request->repository at request->host; NULL: there is none yet. */
struct login *login_find(const struct request *request);
/* The same, made where there is none; NULL: out of memory. It stays while anything is under way. */
struct login *login_get(const struct request *request);
struct token *login_token(struct login *login, enum access access);
void token_forget(struct token *token);

void logins_free(struct registry_host *host);
/* Ends the searches soon: their helpers are killed. */
void logins_stop(struct registry_host *host);

#endif
