#include "fetcher/request_steps-internal.h"

#include <stdlib.h>

#include "base/clock.h"
#include "fetcher/host-internal.h"

void request_rest(struct request *request)
{
    struct registry_client *client = request->client;
    if (request->waiting_in) TAILQ_REMOVE(request->waiting_in, request, waiting_link);
    request->waiting_in = NULL;
    transfer_timer_stop(client->thread, &request->timer);
    exchange_cancel(&request->exchange, client->thread);
}

void request_finish(struct request *request, struct error *error)
{
    request_rest(request);
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

void request_finish_without_memory(struct request *request)
{
    struct error *error = NULL;
    error_set_memory(&error);
    request_finish(request, error);
}

void request_cancel(struct request *request)
{
    struct error *error = NULL;
    error_set(&error, ERROR_CANCELLED, "cancelled");
    request_finish(request, error);
}

void request_wait(struct request *request, struct request_list *list)
{
    request_rest(request);
    TAILQ_INSERT_TAIL(list, request, waiting_link);
    request->waiting_in = list;
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
    request_finish(request, error);
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
        request_finish(request, error);
        return;
    }
    if (request->of && registry_has_well(request->of, request->needed, request->shunned))
        request->asked = request->shunned;
    if (request->timeout_ms)
        transfer_timer_start(client->thread, &request->deadline, request->timeout_ms);
    if (request->delay_ms) {
        request->state = REQUEST_DELAYED;
        transfer_timer_start(client->thread, &request->timer, request->delay_ms);
    } else {
        request_begin_attempt(request);
    }
}

static void make_ready(struct request *request)
{
    request->state = REQUEST_NEW;
    request->task.run = begin;
    request->deadline.fire = on_deadline;
    request_prepare_attempts(request);
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

bool request_is_out(const struct request *request)
{
    curl_off_t sent = 0;
    if (request->state != REQUEST_SENDING) return false;
    curl_easy_getinfo(request->exchange.easy, CURLINFO_PRETRANSFER_TIME_T, &sent);
    return sent > 0;
}

void request_give_up_answer(struct request *request, unsigned waited_ms)
{
    struct error *error = NULL;
    error_set(&error, ERROR_UNREACHABLE, "nothing came for %u ms", waited_ms);
    request->exchange.fresh = true;
    request_host_failed(request, error, false);
}

void request_continue(struct request *request)
{
    if (request->state == REQUEST_SENDING) exchange_resume(&request->exchange);
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
