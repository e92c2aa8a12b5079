#include "fetcher/request_steps-internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/answer_error-internal.h"
#include "fetcher/authorization-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/url-internal.h"

#define REDIRECTS_LIMIT 10
#define REFUSAL_LIMIT   (64u << 10) /* of the body of an answer that is no success */

static const struct exchange_events events;

static void set_failure(struct request *request, struct error *error)
{
    error_free(request->failure);
    request->failure = error;
}

static bool is_at_origin(const struct request *request)
{
    return url_same_origin(request->current_url, request->host ? request->host->api : request->url);
}

/* Appends "name: value"; frees the list and gives NULL when memory is short. */
static struct curl_slist *add_header(struct curl_slist *headers, const char *name,
                                     const char *value)
{
    char *line = format_text("%s: %s", name, value);
    struct curl_slist *longer = line ? curl_slist_append(headers, line) : NULL;
    secret_free(line);
    if (!longer) curl_slist_free_all(headers);
    return longer;
}

/* One of those that the settings give a host; its own authorization only until there is another. */
static struct curl_slist *add_own_header(struct curl_slist *headers, const char *line,
                                         const char *authorization)
{
    if (authorization && strncasecmp(line, "Authorization:", 14) == 0) return headers;
    struct curl_slist *longer = curl_slist_append(headers, line);
    if (!longer) curl_slist_free_all(headers);
    return longer;
}

static struct curl_slist *add_range(struct curl_slist *headers, const struct request *request)
{
    char range[64];
    if (request->range_list) {
        cleanup_free char *list = format_text("bytes=%s", request->range_list);
        if (list) return add_header(headers, "Range", list);
        curl_slist_free_all(headers);
        return NULL;
    }
    snprintf(range, sizeof range, "bytes=%llu-%llu", (unsigned long long)request->range_offset,
             (unsigned long long)(request->range_offset + request->range_length - 1));
    return add_header(headers, "Range", range);
}

static struct curl_slist *make_headers(const struct request *request)
{
    /* The second one: libcurl would wait for a "100 Continue" before larger bodies. */
    struct curl_slist *headers = add_header(NULL, "Accept-Encoding", "identity");
    struct curl_slist *longer = headers ? curl_slist_append(headers, "Expect:") : NULL;
    if (!longer) curl_slist_free_all(headers);
    headers = longer;
    if (headers && request->accept) headers = add_header(headers, "Accept", request->accept);
    if (headers && request->content_type)
        headers = add_header(headers, "Content-Type", request->content_type);
    if (headers && request->range_length > 0) headers = add_range(headers, request);
    if (!is_at_origin(request)) return headers;
    if (headers && request->authorization)
        headers = add_header(headers, "Authorization", request->authorization);
    for (size_t i = 0; headers && request->host && i < request->host->own.header_count; i++)
        headers = add_own_header(headers, request->host->own.headers[i], request->authorization);
    return headers;
}

static void start_exchange(struct request *request)
{
    struct registry_client *client = request->client;
    struct exchange *exchange = &request->exchange;
    struct error *error = NULL;
    exchange->settings = request->host ? &request->host->settings : request->settings;
    exchange->identify = is_at_origin(request);
    exchange->hurry_seconds = request_is_spared(request) ? client->mirror_seconds : 0;
    exchange->events = &events;
    exchange->method = request->method;
    exchange->url = request->current_url;
    exchange->body = request->body;
    exchange->body_length = request->body_length;
    request->enough = request->hopeless = false;
    set_failure(request, NULL);
    request->refusal.length = 0;
    if (request->operations->ask) request->operations->ask(request);
    exchange_clear(exchange);
    exchange->headers = make_headers(request);
    if (!exchange->headers) error_set_memory(&error);
    if (error || exchange_start(exchange, client->thread, &error) < 0) {
        request_finish(request, error);
        return;
    }
    atomic_fetch_add(&client->sent, 1);
    request->state = REQUEST_SENDING;
}

/* Goes on as authorization allows. */
static void proceed(struct request *request, enum authorization authorization, struct error *error)
{
    switch (authorization) {
    case AUTHORIZED:
        start_exchange(request);
        break;
    case AUTHORIZATION_AWAITED:
        request->state = REQUEST_AUTHORIZING;
        break;
    case AUTHORIZATION_FAILED:
        request_fail(request, error);
        break;
    }
}

void request_authorized(struct request *request)
{
    request_rest(request);
    struct error *error = NULL;
    proceed(request, authorize(request, &error), error);
}

static void send_request(struct request *request)
{
    struct error *error = NULL;
    if (request->host && is_at_origin(request))
        proceed(request, authorize(request, &error), error);
    else
        start_exchange(request);
}

void request_go_to(struct request *request, char *url)
{
    secret_free(request->current_url);
    request->current_url = url;
    if (url)
        send_request(request);
    else
        request_finish_without_memory(request);
}

static bool is_success(const struct request *request)
{
    return request->exchange.answer.status / 100 == 2;
}

/* Headers are complete. */
static bool on_headers(struct exchange *exchange)
{
    struct request *request = container_of(exchange, struct request, exchange);
    struct error *error = NULL;
    if (!is_success(request)) return true;
    if (request->operations->begin && request->operations->begin(request, &error) < 0) {
        set_failure(request, error);
        return false;
    }
    transfer_timer_stop(request->client->thread, &request->budget);
    if (request->keep_redirect && request->redirects > 0 && !is_at_origin(request))
        redirects_keep(&request->client->redirects, request->url, request->current_url);
    return true;
}

/* Keeps the start of an answer that is no success. Reading on to its end would
 * save the connection, but nobody knows how far that is. */
static size_t take_refusal(struct request *request, const uint8_t *data, size_t length)
{
    if (length > REFUSAL_LIMIT - request->refusal.length) {
        request->enough = true;
        return 0;
    }
    return buffer_append(&request->refusal, data, length) < 0 ? 0 : length;
}

static size_t on_body(struct exchange *exchange, const uint8_t *data, size_t length)
{
    struct request *request = container_of(exchange, struct request, exchange);
    struct error *error = NULL;
    enum taken taken = TAKEN;
    if (!is_success(request)) {
        atomic_fetch_add(&request->client->bytes_received, length);
        return take_refusal(request, data, length);
    }
    if (request->operations->bytes)
        taken = request->operations->bytes(request, data, length, &error);
    if (taken == TAKEN_NOTHING) return CURL_WRITEFUNC_PAUSE;
    atomic_fetch_add(&request->client->bytes_received, length);
    if (taken == TAKEN) return length;
    request->enough = taken == TAKEN_ENOUGH;
    request->hopeless = taken == TAKEN_TOO_MUCH;
    set_failure(request, error);
    return 0; /* ends the exchange: `length` is never 0 */
}

/* Takes `error`: why what the host answered is of no use. */
static void answer_failed(struct request *request, struct error *error, bool final)
{
    if (!request->operations->otherwise || !request->operations->otherwise(request)) {
        request_host_failed(request, error, final);
        return;
    }
    log_debug("registry %s: %s: %s; asking otherwise", request->registry, request->what,
              error_message(error));
    error_free(error);
    request_go_to(request, strdup(request->current_url));
}

static void succeeded(struct request *request)
{
    struct error *error = NULL;
    if (!request->enough && request->operations->end &&
        request->operations->end(request, &error) < 0) {
        answer_failed(request, error, false);
    } else {
        if (request->host) host_take_back(request->host);
        request_finish(request, NULL);
    }
}

static bool may_follow(const struct request *request)
{
    long status = request->exchange.answer.status;
    if (!request->exchange.answer.location) return false;
    if (status == 307 || status == 308) return true;
    /* The others turn a POST into a GET, which asks something else. */
    return (status == 301 || status == 302 || status == 303) && !request->body &&
           strcmp(request->method, "POST") != 0 && strcmp(request->method, "PUT") != 0;
}

static void follow(struct request *request)
{
    struct error *error = NULL;
    if (++request->redirects > REDIRECTS_LIMIT) {
        error_set(&error, ERROR_INVALID, "more than %d redirects", REDIRECTS_LIMIT);
        request_host_failed(request, error, true);
        return;
    }
    char *target = url_resolve(request->current_url, request->exchange.answer.location, &error);
    if (!target)
        request_host_failed(request, error, true);
    else
        request_go_to(request, target);
}

/* The signature of a redirect's target has a time; storages tell its end in several ways. */
static bool wants_new_redirect(const struct request *request)
{
    long status = request->exchange.answer.status;
    bool refused =
        status == 400 || status == 401 || status == 403 || status == 404 || status == 410;
    return refused && !request->redirect_renewed &&
           strcmp(request->current_url, request->url) != 0 && !is_at_origin(request);
}

static void renew_redirect(struct request *request)
{
    redirects_forget(&request->client->redirects, request->url);
    request->redirect_renewed = true;
    request->redirects = 0;
    request_go_to(request, strdup(request->url));
}

static void tell_answer(const struct request *request)
{
    if (!log_enabled(LOG_DEBUG)) return;
    bool own = request->access != ACCESS_NONE; /* else `what` names the host itself */
    log_debug("%s%s%s%s: HTTP %ld%s", own ? "registry " : "", own ? request->registry : "",
              own ? ": " : "", request->what, request->exchange.answer.status,
              request->host && !is_at_origin(request) ? " from where it redirects to" : "");
}

static void answered(struct request *request)
{
    struct error *error = NULL;
    long status = request->exchange.answer.status;
    tell_answer(request);
    bool at_registry = request->host && is_at_origin(request);
    if (at_registry && status == 401) {
        enum authorization authorization = authorize_again(request, &error);
        proceed(request, authorization, error);
        return;
    }
    if (at_registry) {
        request->refused_since = 0;
        request->refusals = 0;
    }
    if (is_success(request) || (request->redirect_suffices && may_follow(request))) {
        succeeded(request);
    } else if (may_follow(request)) {
        follow(request);
    } else if (wants_new_redirect(request)) {
        renew_redirect(request);
    } else {
        answer_error(request, &error);
        answer_failed(request, error, !answer_is_transient(request));
    }
}

static void on_finished(struct exchange *exchange, CURLcode code)
{
    struct request *request = container_of(exchange, struct request, exchange);
    struct error *error = request->failure;
    request->failure = NULL;
    if (error) {
        answer_failed(request, error, request->hopeless);
    } else if (code == CURLE_OK || request->enough) {
        answered(request);
    } else {
        transport_error(request, code, &error);
        request_host_failed(request, error, transport_is_hopeless(request, code));
    }
}

static const struct exchange_events events = { on_headers, on_body, on_finished };
