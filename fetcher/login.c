#include "fetcher/login-internal.h"

#include <stdlib.h>
#include <string.h>

#include "fetcher/credential_search-internal.h"

#define LOGINS_KEPT 256 /* of a host */

static void token_init(struct token *token, struct login *login, enum access access)
{
    token->login = login;
    token->access = access;
    TAILQ_INIT(&token->waiting);
}

static void token_clear(struct token *token)
{
    free(token->realm);
    free(token->service);
    free(token->scope);
    token_forget(token);
}

static bool token_is_idle(const struct token *token)
{
    return token->state == TOKEN_AT_REST && TAILQ_EMPTY(&token->waiting);
}

void token_forget(struct token *token)
{
    secret_free(token->value);
    token->value = NULL;
}

struct token *login_token(struct login *login, enum access access)
{
    return access == ACCESS_PUSH ? &login->push : &login->pull;
}

static void login_free(struct login *login)
{
    token_clear(&login->pull);
    token_clear(&login->push);
    credentials_free(&login->credentials);
    free(login->repository);
    free(login);
}

static void drop(struct login *login)
{
    TAILQ_REMOVE(&login->host->logins, login, link);
    login->host->login_count--;
    login_free(login);
}

static bool is_idle(const struct login *login)
{
    return !login->search && TAILQ_EMPTY(&login->waiting) && token_is_idle(&login->pull) &&
           token_is_idle(&login->push);
}

/* Lets go of the one that was made first, of those that nobody waits for. */
static void limit(struct registry_host *host)
{
    struct login *login;
    if (host->login_count < LOGINS_KEPT) return;
    TAILQ_FOREACH(login, &host->logins, link)
    {
        if (!is_idle(login)) continue;
        drop(login);
        return;
    }
}

struct login *login_find(const struct request *request)
{
    struct login *login;
    TAILQ_FOREACH(login, &request->host->logins, link)
    {
        if (strcmp(login->repository, request->repository) == 0) return login;
    }
    return NULL;
}

struct login *login_get(const struct request *request)
{
    struct registry_host *host = request->host;
    struct login *login = login_find(request);
    if (login) return login;
    login = calloc(1, sizeof *login);
    if (!login) return NULL;
    login->host = host;
    login->repository = strdup(request->repository);
    TAILQ_INIT(&login->waiting);
    token_init(&login->pull, login, ACCESS_PULL);
    token_init(&login->push, login, ACCESS_PUSH);
    if (!login->repository) {
        login_free(login);
        return NULL;
    }
    limit(host);
    TAILQ_INSERT_TAIL(&host->logins, login, link);
    host->login_count++;
    return login;
}

void logins_free(struct registry_host *host)
{
    while (!TAILQ_EMPTY(&host->logins))
        drop(TAILQ_FIRST(&host->logins));
}

void logins_stop(struct registry_host *host)
{
    struct login *login;
    TAILQ_FOREACH(login, &host->logins, link)
    {
        if (login->search) credential_search_stop(login->search);
    }
}
