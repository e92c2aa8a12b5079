#include "fetcher/authorization-internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/challenge-internal.h"
#include "fetcher/clock-internal.h"
#include "fetcher/credential_search-internal.h"
#include "fetcher/url-internal.h"

#define TOKENS_KEPT 256
#define REFUSALS_LIMIT                                                                         \
    6                 /* more than the paths below need: a registry that never ends is cut off \
                       */
#define USABLE_MS 500 /* a token that has just arrived is used, whatever it says */

static void token_free(struct token *token)
{
    free(token->repository);
    free(token->realm);
    free(token->service);
    free(token->scope);
    secret_free(token->value);
    free(token);
}

void tokens_free(struct registry_host *host)
{
    struct token *token;
    while ((token = TAILQ_FIRST(&host->tokens))) {
        TAILQ_REMOVE(&host->tokens, token, link);
        token_free(token);
    }
}

static struct token *token_find(struct registry_host *host, const char *repository,
                                enum access access)
{
    struct token *token;
    TAILQ_FOREACH(token, &host->tokens, link)
    {
        if (token->access == access && strcmp(token->repository, repository) == 0) return token;
    }
    return NULL;
}

/* Lets go of the token that was made first, of those that nobody waits for. */
static void limit_tokens(struct registry_host *host)
{
    struct token *token;
    if (host->token_count < TOKENS_KEPT) return;
    TAILQ_FOREACH(token, &host->tokens, link)
    {
        if (token->state != TOKEN_AT_REST || !TAILQ_EMPTY(&token->waiting)) continue;
        TAILQ_REMOVE(&host->tokens, token, link);
        host->token_count--;
        token_free(token);
        return;
    }
}

static struct token *token_get(struct request *request)
{
    struct registry_host *host = request->host;
    struct token *token = token_find(host, request->repository, request->access);
    if (token) return token;
    token = calloc(1, sizeof *token);
    if (!token) return NULL;
    token->host = host;
    token->access = request->access;
    token->repository = strdup(request->repository);
    TAILQ_INIT(&token->waiting);
    if (!token->repository) {
        token_free(token);
        return NULL;
    }
    limit_tokens(host);
    TAILQ_INSERT_TAIL(&host->tokens, token, link);
    host->token_count++;
    return token;
}

static void forget_value(struct token *token)
{
    secret_free(token->value);
    token->value = NULL;
}

/* Keeps what the challenge says for this and later tokens. */
static int keep_challenge(struct token *token, struct challenge *challenge, struct error **error)
{
    if (!challenge->realm)
        return error_set(error, ERROR_INVALID, "the registry names no token server");
    char *realm = url_resolve(token->host->api, challenge->realm, error);
    if (!realm) return error_prefix(error, "token server");
    char *scope = take_pointer(&challenge->scope);
    if (!scope)
        scope = format_text("repository:%s:%s", token->repository,
                            token->access == ACCESS_PUSH ? "pull,push" : "pull");
    free(token->realm);
    free(token->service);
    free(token->scope);
    token->realm = realm;
    token->service = take_pointer(&challenge->service);
    token->scope = scope;
    return scope ? 0 : error_set_memory(error);
}

static int use(struct request *request, const char *scheme, const char *value, uint64_t obtained,
               struct error **error)
{
    secret_free(request->authorization);
    request->authorization = value ? format_text("%s %s", scheme, value) : NULL;
    request->authorization_obtained = obtained;
    return request->authorization ? 0 : error_set_memory(error);
}

static enum authorization use_token(struct request *request, const struct token *token,
                                    struct error **error)
{
    if (use(request, "Bearer", token->value, token->obtained, error) < 0)
        return AUTHORIZATION_FAILED;
    return AUTHORIZED;
}

static enum authorization use_basic(struct request *request, struct error **error)
{
    struct registry_host *host = request->host;
    char *basic = credentials_basic(&host->credentials);
    int used = use(request, "Basic", basic, host->searched, error);
    secret_free(basic);
    return used < 0 ? AUTHORIZATION_FAILED : AUTHORIZED;
}

/* An identity token is for token servers only. */
static bool has_password(const struct registry_host *host)
{
    return host->credentials.user && host->credentials.password;
}

static void on_searched(struct registry_host *host)
{
    struct token *token, *next;
    struct request *request;
    for (token = TAILQ_FIRST(&host->tokens); token; token = next) {
        next = TAILQ_NEXT(token, link);
        struct error *error = NULL;
        if (token->state == TOKEN_NEEDS_CREDENTIALS && token_fetch(token, &error) < 0)
            token_failed(token, error);
    }
    /* Nobody comes back into this list before a new search. */
    while ((request = TAILQ_FIRST(&host->waiting)))
        request_authorized(request);
}

static int search(struct registry_host *host, struct error **error)
{
    return host->search ? 0 : credential_search_start(host, on_searched, error);
}

static enum authorization await_token(struct request *request, struct token *token,
                                      struct error **error)
{
    struct registry_host *host = token->host;
    if (token->state == TOKEN_AT_REST) {
        int started = host->searched ? token_fetch(token, error) : search(host, error);
        if (started < 0) return AUTHORIZATION_FAILED;
        if (token->state == TOKEN_AT_REST) token->state = TOKEN_NEEDS_CREDENTIALS;
    }
    request_wait(request, &token->waiting);
    return AUTHORIZATION_AWAITED;
}

static enum authorization await_credentials(struct request *request, struct error **error)
{
    if (search(request->host, error) < 0) return AUTHORIZATION_FAILED;
    request_wait(request, &request->host->waiting);
    return AUTHORIZATION_AWAITED;
}

/* True, once a request, where stored credentials may have changed since they
 * were read (somebody ran `docker login`); they are then forgotten. */
static bool may_search_again(struct request *request)
{
    struct registry_host *host = request->host;
    if (request->searched_again) return false;
    request->searched_again = true;
    if (host->search || !host->searched) return true;
    if (host->searched >= request->refused_since) return false;
    credentials_free(&host->credentials);
    host->searched = 0;
    return true;
}

static int denied(const struct request *request, struct error **error)
{
    const struct registry_host *host = request->host;
    const struct credentials *stored = &host->credentials;
    if (stored->identity_token)
        error_set(error, ERROR_DENIED, "the registry refused the stored identity token");
    else if (credentials_are_known(stored))
        error_set(error, ERROR_DENIED, "the registry refused the credentials of '%s'",
                  stored->user);
    else
        error_set(error, ERROR_DENIED, "there are no credentials for %s%s%s%s", host->name,
                  stored->problem ? " (" : "", stored->problem ? stored->problem : "",
                  stored->problem ? ")" : "");
    return error_hint(error, "run 'docker login %s'", host->name);
}

void authorization_hint(const struct request *request, struct error **error)
{
    const struct registry_host *host = request->host;
    if (!host) return;
    const struct credentials *stored = &host->credentials;
    if (!credentials_are_known(stored))
        error_hint(error, "there are no credentials for %s, run 'docker login %s'", host->name,
                   host->name);
    else if (stored->user)
        error_hint(error, "may '%s' do this?", stored->user);
}

enum authorization authorize(struct request *request, struct error **error)
{
    struct registry_host *host = request->host;
    struct token *token = token_find(host, request->repository, request->access);
    if (token && token->realm) {
        if (token->value && token->until > clock_ms()) return use_token(request, token, error);
        forget_value(token);
        return await_token(request, token, error);
    }
    if (host->basic && has_password(host)) return use_basic(request, error);
    secret_free(request->authorization);
    request->authorization = NULL;
    request->authorization_obtained = 0;
    return AUTHORIZED;
}

/* What was sent is not `value`: another request has renewed it in the meantime. */
static bool was_renewed(const struct request *request, const char *value)
{
    const char *sent = request->authorization ? strchr(request->authorization, ' ') : NULL;
    return value && (!sent || strcmp(sent + 1, value) != 0);
}

static enum authorization again_with_token(struct request *request, struct challenge *challenge,
                                           struct error **error)
{
    struct token *token = token_get(request);
    if (!token) {
        error_set_memory(error);
        return AUTHORIZATION_FAILED;
    }
    /* A token that is being asked for keeps the challenge that it was asked with. */
    if (token->state == TOKEN_AT_REST && keep_challenge(token, challenge, error) < 0)
        return AUTHORIZATION_FAILED;
    if (was_renewed(request, token->value) && token->until > clock_ms())
        return use_token(request, token, error);
    bool fresh =
        request->authorization && request->authorization_obtained >= request->refused_since;
    if (fresh && !may_search_again(request)) {
        denied(request, error);
        return AUTHORIZATION_FAILED;
    }
    forget_value(token);
    return await_token(request, token, error);
}

static enum authorization again_with_basic(struct request *request, struct error **error)
{
    struct registry_host *host = request->host;
    host->basic = true;
    if (!host->searched) return await_credentials(request, error);
    if (has_password(host)) {
        char *basic = credentials_basic(&host->credentials);
        bool renewed = was_renewed(request, basic);
        secret_free(basic);
        if (renewed) return use_basic(request, error);
    }
    if (may_search_again(request)) return await_credentials(request, error);
    denied(request, error);
    return AUTHORIZATION_FAILED;
}

static bool find_challenge(const struct answer *answer, const char *scheme, struct challenge *ret)
{
    for (size_t i = 0; i < ANSWER_CHALLENGES; i++)
        if (answer->challenges[i] && challenge_find(answer->challenges[i], scheme, ret))
            return true;
    return false;
}

enum authorization authorize_again(struct request *request, struct error **error)
{
    const struct answer *answer = &request->exchange.answer;
    struct challenge challenge;
    enum authorization result = AUTHORIZATION_FAILED;
    if (!request->refused_since) {
        request->refused_since = clock_ms();
        request->searched_again = false;
    }
    if (++request->refusals > REFUSALS_LIMIT) {
        denied(request, error);
    } else if (find_challenge(answer, "Bearer", &challenge)) {
        result = again_with_token(request, &challenge, error);
        challenge_free(&challenge);
    } else if (find_challenge(answer, "Basic", &challenge)) {
        challenge_free(&challenge);
        result = again_with_basic(request, error);
    } else {
        error_set(error, ERROR_DENIED,
                  "the registry wants an authentication that is neither Basic nor Bearer");
    }
    return result;
}

/* Takes the waiting requests out of the token, so that those who wait again are not met twice. */
static void take_waiting(struct token *token, struct request_list *ret)
{
    struct request *request;
    TAILQ_INIT(ret);
    TAILQ_CONCAT(ret, &token->waiting, waiting_link);
    TAILQ_FOREACH(request, ret, waiting_link)
    {
        request->waiting_in = ret;
    }
}

void token_arrived(struct token *token, char *value, uint64_t asked, uint64_t lifetime_ms)
{
    struct request_list waiting;
    struct request *request;
    uint64_t now = clock_ms();
    forget_value(token);
    token->value = value;
    token->obtained = asked;
    /* A tenth is for the way, and for clocks that differ. */
    token->until = asked + lifetime_ms - lifetime_ms / 10;
    if (token->until < now + USABLE_MS) token->until = now + USABLE_MS;
    token->state = TOKEN_AT_REST;
    take_waiting(token, &waiting);
    while ((request = TAILQ_FIRST(&waiting)))
        request_authorized(request);
}

/* The token server refused: perhaps because of credentials that have changed. */
static bool ask_again(struct request *request, struct token *token)
{
    cleanup_error struct error *error = NULL;
    if (!request->refused_since) {
        request->refused_since = clock_ms();
        request->searched_again = false;
    }
    if (!may_search_again(request)) return false;
    return await_token(request, token, &error) == AUTHORIZATION_AWAITED;
}

void token_failed(struct token *token, struct error *error)
{
    struct request_list waiting;
    struct request *request;
    bool refused = error && error_kind_of(error) == ERROR_DENIED;
    token->state = TOKEN_AT_REST;
    take_waiting(token, &waiting);
    while ((request = TAILQ_FIRST(&waiting))) {
        struct error *copy = NULL;
        if (refused && ask_again(request, token)) continue;
        if (refused)
            denied(request, &copy);
        else
            error_set(&copy, error_kind_of(error), "%s", error_message(error));
        if (refused) error_prefix(&copy, "%s", error_message(error));
        request_fail(request, copy);
    }
    error_free(error);
}
