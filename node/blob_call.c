#include "node/blob_call.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"

#define RETRY_MS      30000u
#define TIMEOUT_MS    60000u
#define LOOK_AGAIN_MS 100u

/* Of the one who waits and the one who calls back; the last of them frees it. */
struct blob_call {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned references;
    bool done;
    struct buffer body;
    struct error *error;
};

static void unreference(struct blob_call *call)
{
    pthread_mutex_lock(&call->lock);
    bool last = --call->references == 0;
    pthread_mutex_unlock(&call->lock);
    if (!last) return;
    pthread_cond_destroy(&call->changed);
    pthread_mutex_destroy(&call->lock);
    buffer_free(&call->body);
    error_free(call->error);
    free(call);
}

/* range_done */
static void take_answer(void *context, struct buffer *body, struct error *error)
{
    struct blob_call *call = context;
    pthread_mutex_lock(&call->lock);
    call->done = true;
    call->error = error;
    if (body) {
        call->body = *body;
        *body = (struct buffer){ 0 };
    }
    pthread_cond_signal(&call->changed);
    pthread_mutex_unlock(&call->lock);
    unreference(call);
}

static void wait_for_answer(struct blob_call *call, const atomic_bool *cancel)
{
    while (!call->done && !atomic_load(cancel))
        clock_wait(&call->changed, &call->lock, clock_ms() + LOOK_AGAIN_MS);
}

/* With the lock. */
static int take_body(struct blob_call *call, const struct digest *digest, struct buffer *ret,
                     struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    struct digest found;
    if (!call->done) return error_set(error, ERROR_CANCELLED, "cancelled");
    if (call->error) {
        struct error *reason = call->error;
        call->error = NULL;
        return error_move(error, reason);
    }
    digest_of(call->body.data, call->body.length, &found);
    if (!digest_equal(&found, digest))
        return error_set(error, ERROR_UNREACHABLE, "blob %s came with other bytes",
                         digest_format(digest, text));
    *ret = call->body;
    call->body = (struct buffer){ 0 };
    return 0;
}

int blob_call(struct registry_client *client, const struct repository *repository,
              const struct digest *digest, size_t length, const atomic_bool *cancel,
              struct buffer *ret, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    if (length == 0)
        return error_set(error, ERROR_UNSUPPORTED, "blob %s is empty", digest_format(digest, text));
    struct blob_call *call = calloc(1, sizeof *call);
    if (!call) return error_set_memory(error);
    pthread_mutex_init(&call->lock, NULL);
    clock_condition_init(&call->changed);
    call->references = 2;
    registry_fetch_range(client, repository, digest, 0, length,
                         (struct range_time){ TIMEOUT_MS, RETRY_MS }, take_answer, call);
    pthread_mutex_lock(&call->lock);
    wait_for_answer(call, cancel);
    int result = take_body(call, digest, ret, error);
    bool damaged = result < 0 && call->done && call->body.length > 0;
    pthread_mutex_unlock(&call->lock);
    if (damaged) registry_report_damage(client, digest, 0, length);
    unreference(call);
    return result;
}
