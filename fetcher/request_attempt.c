#include "fetcher/request_steps-internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/answer_error-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/url-internal.h"

#define FIRST_BACK_OFF_MS   200u
#define LONGEST_BACK_OFF_MS 2000u /* who waits goes on so soon after a registry is back */
#define TROUBLE_TOLD_MS     60000u
#define LONGEST_ASIDE       300u /* seconds, whatever a host wants */
#define LONGEST_RETRY_AFTER \
    30u /* seconds; a registry that wants more gets the next attempt early */

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
        request_finish(request, error);
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

bool request_is_spared(const struct request *request)
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
            request_finish_without_memory(request);
            return;
        }
        if (request_is_spared(request)) start_budget(request);
    }
    if (request->keep_redirect) target = redirects_find(&request->client->redirects, request->url);
    request_go_to(request, strdup(target ? target : request->url));
}

void request_host_failed(struct request *request, struct error *error, bool final)
{
    request_rest(request);
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
    request_host_failed(request, error, !(away && request->retry_ms > 0));
}

void request_made_progress(struct request *request)
{
    request->attempt = 1;
    request->wrong = 0;
}

void request_begin_attempt(struct request *request)
{
    struct error *error = NULL;
    if (request->path && !choose_host(request)) {
        error_set(&error, ERROR_DENIED, "none of its hosts is to be used for this");
        error_hint(&error, "see the capabilities in its hosts.toml");
        request_finish(request, error);
        return;
    }
    ask_host(request);
}

static void on_timer(struct transfer_timer *timer)
{
    request_begin_attempt(container_of(timer, struct request, timer));
}

static void on_budget(struct transfer_timer *timer)
{
    struct request *request = container_of(timer, struct request, budget);
    struct error *error = NULL;
    error_set(&error, ERROR_UNREACHABLE, "no answer within %u ms", request->budget_ms);
    request_host_failed(request, error, false);
}

void request_prepare_attempts(struct request *request)
{
    request->timer.fire = on_timer;
    request->budget.fire = on_budget;
    request->attempt = 1;
    if (!request->attempts) request->attempts = request->client->attempts;
}
