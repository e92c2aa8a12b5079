#include "fetcher/authorization-internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "fetcher/challenge-internal.h"
#include "fetcher/credential_search-internal.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/url-internal.h"

#define REFUSALS_LIMIT                                                         \
    6 /* more than the paths below need: a registry that never ends is cut off \
       */
#define GIVEN_TOKEN_MS 3600000
#define USABLE_MS      500 /* a token that has just arrived is used, whatever it says */

/* Keeps what the challenge says for this and later tokens. */
static int keep_challenge(struct token *token, struct challenge *challenge, struct error **error)
{
    if (!challenge->realm)
        return error_set(error, ERROR_INVALID, "the registry names no token server");
    char *realm = url_resolve(token->login->host->api, challenge->realm, error);
    if (!realm) return error_prefix(error, "token server");
    char *scope = take_pointer(&challenge->scope);
    if (!scope)
        scope = format_text("repository:%s:%s", token->login->repository,
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

static enum authorization use_basic(struct request *request, const struct login *login,
                                    struct error **error)
{
    char *basic = credentials_basic(&login->credentials);
    int used = use(request, "Basic", basic, login->searched, error);
    secret_free(basic);
    return used < 0 ? AUTHORIZATION_FAILED : AUTHORIZED;
}

/* An identity token is for token servers only, a registry token for registries that want one. */
static bool has_password(const struct login *login)
{
    return login->credentials.user && login->credentials.password;
}

/* A token that was given is shown as it is; the registry says when it has ended. */
static int take_given_token(struct token *token, struct error **error)
{
    const struct login *login = token->login;
    char *value = strdup(login->credentials.registry_token);
    if (!value) return error_set_memory(error);
    token_arrived(token, value, login->searched, GIVEN_TOKEN_MS);
    return 0;
}

static void on_token_searched(struct token *token)
{
    struct error *error = NULL;
    if (token->state != TOKEN_NEEDS_CREDENTIALS) return;
    int got = token->login->credentials.registry_token ? take_given_token(token, &error)
                                                       : token_fetch(token, &error);
    if (got < 0) token_failed(token, error);
}

static void on_searched(struct login *login)
{
    struct request *request;
    on_token_searched(&login->pull);
    on_token_searched(&login->push);
    /* Nobody comes back into this list before a new search. */
    while ((request = TAILQ_FIRST(&login->waiting)))
        request_authorized(request);
}

static int search(struct login *login, struct error **error)
{
    return login->search ? 0 : credential_search_start(login, on_searched, error);
}

static enum authorization await_token(struct request *request, struct token *token,
                                      struct error **error)
{
    struct login *login = token->login;
    if (token->state == TOKEN_AT_REST && login->searched && login->credentials.registry_token) {
        if (take_given_token(token, error) < 0) return AUTHORIZATION_FAILED;
        return use_token(request, token, error);
    }
    if (token->state == TOKEN_AT_REST) {
        int started = login->searched ? token_fetch(token, error) : search(login, error);
        if (started < 0) return AUTHORIZATION_FAILED;
        if (token->state == TOKEN_AT_REST) token->state = TOKEN_NEEDS_CREDENTIALS;
    }
    request_wait(request, &token->waiting);
    return AUTHORIZATION_AWAITED;
}

static enum authorization await_credentials(struct request *request, struct login *login,
                                            struct error **error)
{
    if (search(login, error) < 0) return AUTHORIZATION_FAILED;
    request_wait(request, &login->waiting);
    return AUTHORIZATION_AWAITED;
}

/* Whoever searches again is told what was no good. */
static void forget_credentials(struct login *login)
{
    const struct credentials *found = &login->credentials;
    login->was_refused =
        credentials_are_known(found) && credentials_fingerprint(found, &login->refused) == 0;
    credentials_free(&login->credentials);
    login->searched = 0;
}

/* True, once a request, where others may be found than those that were refused: stored credentials
 * may have changed since they were read (somebody ran `docker login`), and who is asked may know
 * several. They are then forgotten. */
static bool may_search_again(struct request *request, struct login *login)
{
    if (request->searched_again) return false;
    request->searched_again = true;
    if (login->search || !login->searched) return true;
    bool fresh = login->searched >= request->refused_since;
    if (fresh && !login->host->client->credentials) return false;
    forget_credentials(login);
    return true;
}

static int denied(const struct request *request, struct error **error)
{
    static const struct credentials none;
    const struct registry_host *host = request->host;
    const struct login *login = login_find(request);
    const struct credentials *stored = login ? &login->credentials : &none;
    if (stored->identity_token || stored->registry_token)
        error_set(error, ERROR_DENIED, "the registry refused the stored %s token",
                  stored->identity_token ? "identity" : "registry");
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
    const struct login *login = login_find(request);
    if (!login || !credentials_are_known(&login->credentials))
        error_hint(error, "there are no credentials for %s, run 'docker login %s'", host->name,
                   host->name);
    else if (login->credentials.user)
        error_hint(error, "may '%s' do this?", login->credentials.user);
}

enum authorization authorize(struct request *request, struct error **error)
{
    struct login *login = login_find(request);
    struct token *token = login ? login_token(login, request->access) : NULL;
    if (token && token->realm) {
        if (token->value && token->until > clock_ms()) return use_token(request, token, error);
        token_forget(token);
        return await_token(request, token, error);
    }
    if (login && login->basic && has_password(login)) return use_basic(request, login, error);
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

static enum authorization again_with_token(struct request *request, struct login *login,
                                           struct challenge *challenge, struct error **error)
{
    struct token *token = login_token(login, request->access);
    /* A token that is being asked for keeps the challenge that it was asked with. */
    if (token->state == TOKEN_AT_REST && keep_challenge(token, challenge, error) < 0)
        return AUTHORIZATION_FAILED;
    if (was_renewed(request, token->value) && token->until > clock_ms())
        return use_token(request, token, error);
    bool fresh = request->authorization &&
                 (request->authorization_obtained >= request->refused_since ||
                  login->credentials.registry_token); /* there is no other to be had with it */
    if (fresh && !may_search_again(request, login)) {
        denied(request, error);
        return AUTHORIZATION_FAILED;
    }
    token_forget(token);
    return await_token(request, token, error);
}

static enum authorization again_with_basic(struct request *request, struct login *login,
                                           struct error **error)
{
    login->basic = true;
    if (!login->searched) return await_credentials(request, login, error);
    if (has_password(login)) {
        char *basic = credentials_basic(&login->credentials);
        bool renewed = was_renewed(request, basic);
        secret_free(basic);
        if (renewed) return use_basic(request, login, error);
    }
    if (may_search_again(request, login)) return await_credentials(request, login, error);
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
    struct login *login = login_get(request);
    struct challenge challenge;
    enum authorization result = AUTHORIZATION_FAILED;
    if (!login) {
        error_set_memory(error);
        return result;
    }
    if (!request->refused_since) {
        request->refused_since = clock_ms();
        request->searched_again = false;
    }
    if (++request->refusals > REFUSALS_LIMIT) {
        denied(request, error);
    } else if (find_challenge(answer, "Bearer", &challenge)) {
        result = again_with_token(request, login, &challenge, error);
        challenge_free(&challenge);
    } else if (find_challenge(answer, "Basic", &challenge)) {
        challenge_free(&challenge);
        result = again_with_basic(request, login, error);
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
    token_forget(token);
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
    if (!may_search_again(request, token->login)) return false;
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
