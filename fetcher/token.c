/* The request for a bearer token. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "fetcher/authorization-internal.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/url-internal.h"

#define ANSWER_LIMIT     (1u << 20)
#define DEFAULT_LIFETIME 60   /* seconds; the token specification, "expires_in" */
#define LONGEST_LIFETIME 3600 /* a server's word is not trusted for longer */
#define TIMEOUT_MS       60000

struct token_request {
    struct request request;
    struct token *token;
    struct buffer answer;
    char *form; /* the body of a POST; holds the identity token */
    uint64_t asked;
};

static int begin(struct request *request, struct error **error)
{
    (void)error;
    struct token_request *asking = container_of(request, struct token_request, request);
    secret_buffer_free(&asking->answer);
    return 0;
}

static enum taken take_bytes(struct request *request, const uint8_t *data, size_t length,
                             struct error **error)
{
    struct token_request *asking = container_of(request, struct token_request, request);
    if (length > ANSWER_LIMIT - asking->answer.length) {
        error_set(error, ERROR_INVALID, "the answer is larger than %u bytes", ANSWER_LIMIT);
        return TAKEN_TOO_MUCH;
    }
    if (buffer_append(&asking->answer, data, length) == 0) return TAKEN;
    error_set_memory(error);
    return TAKEN_TOO_MUCH;
}

static uint64_t lifetime_ms(const json_t *answer)
{
    const json_t *expires = json_object_get(answer, "expires_in");
    double seconds = json_is_number(expires) ? json_number_value(expires) : 0;
    if (!(seconds > 0)) seconds = DEFAULT_LIFETIME;
    if (seconds > LONGEST_LIFETIME) seconds = LONGEST_LIFETIME;
    return (uint64_t)(seconds * 1000);
}

/* Whole answers only; gives the token to those who wait. -1: it is no token. */
static int deliver(struct token_request *asking, struct error **error)
{
    const struct buffer *body = &asking->answer;
    json_t *root = json_loadb((const char *)body->data, body->length, 0, NULL);
    const char *value = json_string_value(json_object_get(root, "token"));
    if (!value) value = json_string_value(json_object_get(root, "access_token"));
    char *copy = value && registry_token_is_valid(value) ? strdup(value) : NULL;
    uint64_t lifetime = lifetime_ms(root);
    json_decref(root);
    if (!copy) return error_set(error, ERROR_INVALID, "the answer holds no token");
    token_arrived(asking->token, copy, asking->asked, lifetime);
    return 0;
}

static void release(struct token_request *asking)
{
    request_release(&asking->request);
    secret_buffer_free(&asking->answer);
    secret_free(asking->form);
    free(asking);
}

static void done(struct request *request, struct error *error)
{
    struct token_request *asking = container_of(request, struct token_request, request);
    if (error || deliver(asking, &error) < 0) token_failed(asking->token, error);
    release(asking);
}

static const struct request_operations operations = { .begin = begin,
                                                      .bytes = take_bytes,
                                                      .done = done };

/* A challenge may name several scopes with blanks between; each is a parameter of its own. */
static char *add_scopes(char *query, const char *scopes)
{
    cleanup_free char *copy = strdup(scopes);
    char *rest = NULL;
    if (!copy) {
        free(query);
        return NULL;
    }
    for (char *scope = strtok_r(copy, " ", &rest); scope; scope = strtok_r(NULL, " ", &rest))
        query = url_add_query(query, "scope", scope);
    return query;
}

static int prepare_get(struct token_request *asking, const struct credentials *credentials)
{
    const struct token *token = asking->token;
    struct request *request = &asking->request;
    request->method = "GET";
    request->url = strdup(token->realm);
    if (token->service) request->url = url_add_query(request->url, "service", token->service);
    request->url = add_scopes(request->url, token->scope);
    if (!credentials_are_known(credentials)) return request->url ? 0 : -1;
    char *basic = credentials_basic(credentials);
    if (basic) request->authorization = format_text("Basic %s", basic);
    secret_free(basic);
    return request->url && request->authorization ? 0 : -1;
}

/* The form is made like a query, whose '?' is then left out. */
static int prepare_post(struct token_request *asking, const struct credentials *credentials)
{
    const struct token *token = asking->token;
    struct request *request = &asking->request;
    char *form = url_add_query(strdup(""), "grant_type", "refresh_token");
    form = url_add_query(form, "client_id", "sluice");
    if (token->service) form = url_add_query(form, "service", token->service);
    form = url_add_query(form, "scope", token->scope);
    form = url_add_query(form, "refresh_token", credentials->identity_token);
    asking->form = form;
    request->method = "POST";
    request->url = strdup(token->realm);
    request->content_type = "application/x-www-form-urlencoded";
    if (!form || !request->url) return -1;
    request->body = form + 1;
    request->body_length = strlen(form + 1);
    return 0;
}

int token_fetch(struct token *token, struct error **error)
{
    const struct credentials *credentials = &token->login->credentials;
    const struct registry_host *host = token->login->host;
    struct token_request *asking = calloc(1, sizeof *asking);
    if (!asking) return error_set_memory(error);
    char server[URL_HOST_LIMIT];
    asking->token = token;
    asking->asked = clock_ms();
    struct request *request = &asking->request;
    request->client = host->client;
    request->operations = &operations;
    request->access = ACCESS_NONE;
    request->settings = &host->settings;
    request->registry = strdup(host->name);
    request->what = format_text("token server %s", url_host(token->realm, server));
    request->timeout_ms = TIMEOUT_MS;
    int prepared = credentials->identity_token ? prepare_post(asking, credentials)
                                               : prepare_get(asking, credentials);
    if (prepared < 0 || !request->registry || !request->what) {
        release(asking);
        return error_set_memory(error);
    }
    token->state = TOKEN_ASKED_FOR;
    request_submit(request);
    return 0;
}
