#include "fetcher/request-internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/answer_error-internal.h"
#include "fetcher/authorization-internal.h"
#include "fetcher/url-internal.h"

#define REDIRECTS_LIMIT     10
#define REFUSAL_LIMIT       (64u << 10) /* of the body of an answer that is no success */
#define FIRST_BACK_OFF_MS   200u
#define LONGEST_BACK_OFF_MS 2000u /* who waits goes on so soon after a registry is back */
#define TROUBLE_TOLD_MS     60000u
#define LONGEST_ASIDE       300u /* seconds, whatever a host wants */
#define LONGEST_RETRY_AFTER \
    30u /* seconds; a registry that wants more gets the next attempt early */

static const struct exchange_events events;
static bool choose_host(struct request *request);
static void ask_host(struct request *request);

static void set_failure(struct request *request, struct error *error)
{
    error_free(request->failure);
    request->failure = error;
}

/* Takes the request out of whatever it waits for. */
static void rest(struct request *request)
{
    struct registry_client *client = request->client;
    if (request->waiting_in) TAILQ_REMOVE(request->waiting_in, request, waiting_link);
    request->waiting_in = NULL;
    transfer_timer_stop(client->thread, &request->timer);
    exchange_cancel(&request->exchange, client->thread);
}

/* Takes `error` (NULL: success). The request may be gone afterwards. */
static void finish(struct request *request, struct error *error)
{
    rest(request);
    transfer_timer_stop(request->client->thread, &request->deadline);
    transfer_timer_stop(request->client->thread, &request->budget);
    TAILQ_REMOVE(&request->client->requests, request, link);
    request->state = REQUEST_DONE;
    if (error && request->access == ACCESS_NONE)
        error_prefix(&error, "%s", request->what);
    else if (error)
        error_prefix(&error, "registry %s: %s", request->registry, request->what);
    request->operations->done(request, error);
}

static void finish_without_memory(struct request *request)
{
    struct error *error = NULL;
    error_set_memory(&error);
    finish(request, error);
}

void request_cancel(struct request *request)
{
    struct error *error = NULL;
    error_set(&error, ERROR_CANCELLED, "cancelled");
    finish(request, error);
}

/* Half of it is left to chance, so that many nodes do not come back together. */
static unsigned back_off_ms(const struct request *request)
{
    unsigned longest = FIRST_BACK_OFF_MS, chance = 0;
    for (unsigned i = 1; i < request->attempt && longest < LONGEST_BACK_OFF_MS; i++)
        longest *= 2;
    if (longest > LONGEST_BACK_OFF_MS) longest = LONGEST_BACK_OFF_MS;
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) < 0) chance = 0;
    return longest / 2 + chance % (longest / 2 + 1);
}

/* Of the time in which it is tried again whatever the number of attempts. */
static uint64_t retry_left_ms(const struct request *request)
{
    uint64_t spent = clock_ms() - request->begun;
    return spent < request->retry_ms ? request->retry_ms - spent : 0;
}

/* Before the next attempt; the last one is made at the end of the time for it, whatever pause is
 * due. */
static uint64_t pause_ms(const struct request *request)
{
    uint64_t pause = back_off_ms(request), left = retry_left_ms(request);
    uint64_t wanted = request->exchange.answer.retry_after;
    if (wanted > LONGEST_RETRY_AFTER) wanted = LONGEST_RETRY_AFTER;
    if (pause < wanted * 1000) pause = wanted * 1000;
    return left > 0 && pause > left ? left : pause;
}

/* Who is away may come back at any moment; who answers wrongly again and again will go on so. */
static bool may_try_again(const struct request *request, bool away, uint64_t pause)
{
    if (request->verdict_final) return false;
    if (request->deadline.started && clock_ms() + pause >= request->deadline.due) return false;
    if (request->retry_ms == 0) return request->attempt < request->attempts;
    return retry_left_ms(request) > 0 && (away || request->wrong < request->attempts);
}

/* Whoever looks for the reason why programs hang finds one line a minute, not one for each of the
 * many that wait. */
static void tell_retry(const struct request *request, const struct error *error, uint64_t pause)
{
    struct registry *of = request->of;
    log_info("registry %s: %s: %s; trying again in %u ms", request->registry, request->what,
             error_message(error), (unsigned)pause);
    if (!of || request->retry_ms == 0 || request->attempt != request->attempts) return;
    if (of->trouble_told && clock_ms() - of->trouble_told < TROUBLE_TOLD_MS) return;
    of->trouble_told = clock_ms();
    log_warning("registry %s: %s: %s; reads wait, and it is tried again for up to %llu seconds",
                request->registry, request->what, error_message(error),
                (unsigned long long)retry_left_ms(request) / 1000);
}

/* Waits, then asks all hosts again, or fails with their verdict. */
static void attempt_failed(struct request *request)
{
    struct registry_client *client = request->client;
    struct error *error = take_pointer(&request->verdict);
    cleanup_error struct error *passed_over = take_pointer(&request->passed_over);
    bool away = error_kind_of(error) == ERROR_UNREACHABLE;
    /* Where nobody answered, what is to be mended may well be the mirror. */
    if (passed_over && away) error_hint(&error, "and %s", error_message(passed_over));
    if (!away) request->wrong++;
    uint64_t pause = pause_ms(request);
    if (!may_try_again(request, away, pause)) {
        if (request->retry_ms && !request->verdict_final)
            error_hint(&error, "tried %u times", request->attempt);
        finish(request, error);
        return;
    }
    tell_retry(request, error, pause);
    error_free(request->last);
    request->last = error;
    request->attempt++;
    request->asked = 0;
    atomic_fetch_add(&client->retries, 1);
    request->state = REQUEST_DELAYED;
    transfer_timer_start(client->thread, &request->timer, pause);
}

static bool has_others(const struct request *request)
{
    return request->path && request->of && request->of->count > 1;
}

/* Somebody else can be asked where this host does not answer well. */
static bool is_spared(const struct request *request)
{
    return has_others(request) && registry_has_more(request->of, request->needed, request->asked);
}

/* The host is well, and the question was for somebody else. */
static bool is_plain_refusal(const struct request *request)
{
    long status = request->exchange.answer.status;
    return status / 100 == 4 && status != 401 && status != 403 && !status_is_transient(status);
}

/* A host that is left out for a while costs one request, one that is asked first costs each. */
static void judge_host(struct request *request)
{
    uint64_t seconds = request->client->aside_seconds;
    uint64_t wanted = request->exchange.answer.retry_after;
    if (wanted > seconds) seconds = wanted > LONGEST_ASIDE ? LONGEST_ASIDE : wanted;
    if (!is_plain_refusal(request)) {
        host_set_aside(request->host, seconds * 1000);
        return;
    }
    host_take_back(request->host);
    request->lacked = true;
    /* A manifest may be pushed at any moment, and who asks for it wants to know. */
    if (request->keep_redirect && request->exchange.answer.status == 404)
        absences_note(&request->client->absences, request->host, request->path, seconds * 1000);
}

/* Takes `error`. Of several hosts' reasons the last one's counts, for the others stand in for it.
 */
static void keep_verdict(struct request *request, struct error *error, bool final)
{
    bool decides = !request->host || !request->verdict ||
                   request->host == registry_authority(request->of, request->needed);
    struct error *other = decides ? request->verdict : error;
    if (other && !request->passed_over && error_kind_of(other) == ERROR_UNREACHABLE)
        request->passed_over = other;
    else
        error_free(other);
    if (!decides) return;
    request->verdict = error;
    request->verdict_final = final;
    request->verdict_status = request->exchange.answer.status;
}

/* Takes `error`: asks the next host, or all of them again later, or fails. `final`: this host would
 * say the same again. */
static void host_failed(struct request *request, struct error *error, bool final)
{
    rest(request);
    transfer_timer_stop(request->client->thread, &request->budget);
    redirects_forget(&request->client->redirects, request->url);
    if (request->host && request->host->is_mirror)
        error_prefix(&error, "mirror %s", request->host->name);
    bool others = request->host && has_others(request);
    if (others) {
        judge_host(request);
        log_info("registry %s: %s: %s", request->registry, request->what, error_message(error));
    }
    keep_verdict(request, error, final);
    if (others && choose_host(request))
        ask_host(request);
    else
        attempt_failed(request);
}

/* A token server that is away (often it is the registry itself) has had its attempts; it is asked
 * once more only where the question can wait. */
void request_fail(struct request *request, struct error *error)
{
    bool away = error_kind_of(error) == ERROR_UNREACHABLE;
    host_failed(request, error, !(away && request->retry_ms > 0));
}

void request_made_progress(struct request *request)
{
    request->attempt = 1;
    request->wrong = 0;
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
    exchange->hurry_seconds = is_spared(request) ? client->mirror_seconds : 0;
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
        finish(request, error);
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

void request_wait(struct request *request, struct request_list *list)
{
    rest(request);
    TAILQ_INSERT_TAIL(list, request, waiting_link);
    request->waiting_in = list;
}

void request_authorized(struct request *request)
{
    rest(request);
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

/* Sends the request to `url` (taken over; NULL: out of memory). */
static void go_to(struct request *request, char *url)
{
    secret_free(request->current_url);
    request->current_url = url;
    if (url)
        send_request(request);
    else
        finish_without_memory(request);
}

/* A host that has others behind it must answer in time. Where the whole request has little time,
 * each host gets its share. */
static void start_budget(struct request *request)
{
    uint64_t budget = request->client->mirror_seconds * UINT64_C(1000);
    if (request->deadline.started) {
        uint64_t now = clock_ms();
        uint64_t left = request->deadline.due > now ? request->deadline.due - now : 0;
        if (budget > left / 2) budget = left / 2;
    }
    request->budget_ms = (unsigned)budget;
    transfer_timer_start(request->client->thread, &request->budget, budget);
}

static bool choose_host(struct request *request)
{
    uint32_t lacking = 0;
    if (has_others(request))
        lacking = absences_find(&request->client->absences, request->of, request->path);
    struct registry_host *host =
        registry_choose(request->of, request->needed, request->asked | lacking);
    if (!host) host = registry_choose(request->of, request->needed, request->asked);
    if (!host) return false;
    request->host = host;
    request->asked |= UINT32_C(1) << host->position;
    return true;
}

/* Where a path is below the API of the chosen host, in fresh memory. */
static char *host_url(const struct request *request)
{
    const struct registry_host *host = request->host;
    char *url = format_text("%s/%s", host->api, request->path);
    return host->is_mirror ? url_add_query(url, "ns", request->registry) : url;
}

static void ask_host(struct request *request)
{
    const char *target = NULL;
    request->redirects = 0;
    request->redirect_renewed = false;
    request->refused_since = 0;
    request->refusals = 0;
    if (request->path) {
        free(request->url);
        request->url = host_url(request);
        if (!request->url) {
            finish_without_memory(request);
            return;
        }
        if (is_spared(request)) start_budget(request);
    }
    if (request->keep_redirect) target = redirects_find(&request->client->redirects, request->url);
    go_to(request, strdup(target ? target : request->url));
}

static void begin_attempt(struct request *request)
{
    struct error *error = NULL;
    if (request->path && !choose_host(request)) {
        error_set(&error, ERROR_DENIED, "none of its hosts is to be used for this");
        error_hint(&error, "see the capabilities in its hosts.toml");
        finish(request, error);
        return;
    }
    ask_host(request);
}

static void on_timer(struct transfer_timer *timer)
{
    begin_attempt(container_of(timer, struct request, timer));
}

static void on_budget(struct transfer_timer *timer)
{
    struct request *request = container_of(timer, struct request, budget);
    struct error *error = NULL;
    error_set(&error, ERROR_UNREACHABLE, "no answer within %u ms", request->budget_ms);
    host_failed(request, error, false);
}

static void on_deadline(struct transfer_timer *timer)
{
    struct request *request = container_of(timer, struct request, deadline);
    struct error *error = NULL;
    const struct error *reason = request->verdict ? request->verdict : request->last;
    if (reason)
        error_set(&error, ERROR_UNREACHABLE, "gave up after %u ms: %s", request->timeout_ms,
                  error_message(reason));
    else
        error_set(&error, ERROR_UNREACHABLE, "no answer within %u ms", request->timeout_ms);
    finish(request, error);
}

/* And the host, where the address is given. */
static int find_registry(struct request *request, struct error **error)
{
    if (request->access == ACCESS_NONE) return 0;
    request->of = registry_get(request->client, request->registry, error);
    if (!request->of) return -1;
    if (request->path) return 0;
    request->host = registry_host_at(request->of, request->needed, request->url);
    if (request->host) return 0;
    return error_set(error, ERROR_DENIED, "none of its hosts is to be used for this");
}

static void begin(struct transfer_task *task)
{
    struct request *request = container_of(task, struct request, task);
    struct registry_client *client = request->client;
    TAILQ_INSERT_TAIL(&client->requests, request, link);
    request->begun = clock_ms();
    if (client->stopped) {
        request_cancel(request);
        return;
    }
    struct error *error = NULL;
    if (find_registry(request, &error) < 0) {
        finish(request, error);
        return;
    }
    if (request->of && registry_has_more(request->of, request->needed, request->shunned))
        request->asked = request->shunned;
    if (request->timeout_ms)
        transfer_timer_start(client->thread, &request->deadline, request->timeout_ms);
    if (request->delay_ms) {
        request->state = REQUEST_DELAYED;
        transfer_timer_start(client->thread, &request->timer, request->delay_ms);
    } else {
        begin_attempt(request);
    }
}

static void make_ready(struct request *request)
{
    request->state = REQUEST_NEW;
    request->task.run = begin;
    request->timer.fire = on_timer;
    request->deadline.fire = on_deadline;
    request->budget.fire = on_budget;
    request->attempt = 1;
    if (!request->attempts) request->attempts = request->client->attempts;
}

void request_submit(struct request *request)
{
    make_ready(request);
    transfer_post(request->client->thread, &request->task);
}

void request_start(struct request *request)
{
    make_ready(request);
    begin(&request->task);
}

void request_release(struct request *request)
{
    exchange_clear(&request->exchange);
    free(request->registry);
    free(request->repository);
    free(request->what);
    free(request->path);
    free(request->url);
    secret_free(request->authorization);
    secret_free(request->current_url);
    error_free(request->failure);
    error_free(request->verdict);
    error_free(request->last);
    error_free(request->passed_over);
    buffer_free(&request->refusal);
}

void request_continue(struct request *request)
{
    if (request->state == REQUEST_SENDING) exchange_resume(&request->exchange);
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
        host_failed(request, error, final);
        return;
    }
    log_debug("registry %s: %s: %s; asking otherwise", request->registry, request->what,
              error_message(error));
    error_free(error);
    go_to(request, strdup(request->current_url));
}

static void succeeded(struct request *request)
{
    struct error *error = NULL;
    if (!request->enough && request->operations->end &&
        request->operations->end(request, &error) < 0) {
        answer_failed(request, error, false);
    } else {
        if (request->host) host_take_back(request->host);
        finish(request, NULL);
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
        host_failed(request, error, true);
        return;
    }
    char *target = url_resolve(request->current_url, request->exchange.answer.location, &error);
    if (!target)
        host_failed(request, error, true);
    else
        go_to(request, target);
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
    go_to(request, strdup(request->url));
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
        host_failed(request, error, transport_is_hopeless(request, code));
    }
}

static const struct exchange_events events = { on_headers, on_body, on_finished };
