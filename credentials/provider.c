#include "credentials/provider.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/program.h"
#include "credentials/image_pattern.h"
#include "credentials/kept_secret.h"
#include "credentials/provider-internal.h"

#define TIMEOUT_MS   30000 /* shorter than a read waits */
#define OUTPUT_LIMIT (1u << 20)
#define ANSWERS_KEPT 128u
/* Nothing changes sooner: who has given what was refused once more is not asked again, nor is one
 * who failed. */
#define AGAIN_MS      5000
#define LOOK_AGAIN_MS 100 /* those who wait for another's run look whether they are to go on */

/* ---- making ---- */

struct credential_provider *credential_provider_new(struct provider_settings *settings,
                                                    struct error **error)
{
    struct credential_provider *provider = calloc(1, sizeof *provider);
    if (!provider) {
        provider_settings_free(settings);
        error_set_memory(error);
        return NULL;
    }
    provider->settings = *settings;
    *settings = (struct provider_settings){ 0 };
    pthread_mutex_init(&provider->lock, NULL);
    clock_condition_init(&provider->changed);
    TAILQ_INIT(&provider->answers);
    return provider;
}

static void drop(struct credential_provider *provider, struct provider_answer *answer)
{
    TAILQ_REMOVE(&provider->answers, answer, link);
    provider->count--;
    provider_answer_free(answer);
}

void credential_provider_free(struct credential_provider *provider)
{
    while (!TAILQ_EMPTY(&provider->answers))
        drop(provider, TAILQ_FIRST(&provider->answers));
    provider_settings_free(&provider->settings);
    pthread_mutex_destroy(&provider->lock);
    pthread_cond_destroy(&provider->changed);
    free(provider->failure);
    free(provider);
}

const char *credential_provider_name(const struct credential_provider *provider)
{
    return provider->settings.name;
}

bool credential_provider_knows(const struct credential_provider *provider, const char *image)
{
    for (size_t i = 0; i < provider->settings.pattern_count; i++)
        if (image_pattern_matches(provider->settings.patterns[i], image)) return true;
    return false;
}

/* ---- running ---- */

static char *question(const struct provider_settings *settings, const char *image)
{
    cleanup_json json_t *request = json_pack("{s:s, s:s, s:s}", "apiVersion", settings->api, "kind",
                                             "CredentialProviderRequest", "image", image);
    return request ? json_dumps(request, JSON_COMPACT) : NULL;
}

static struct provider_answer *run(const struct provider_settings *settings, const char *image,
                                   int cancel_descriptor, struct error **error)
{
    cleanup_free char *input = question(settings, image);
    if (!input) {
        error_set_memory(error);
        return NULL;
    }
    struct program program = { .name = settings->path,
                               .arguments = settings->arguments,
                               .environment = settings->environment,
                               .input = input,
                               .output_limit = OUTPUT_LIMIT,
                               .timeout_ms = TIMEOUT_MS,
                               .cancel_descriptor = cancel_descriptor };
    cleanup_secret struct buffer output = { 0 };
    int status;
    if (program_run(&program, &output, &status, error) < 0) return NULL;
    if (status != -1 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        error_set(error, ERROR_DENIED, "it failed (%s %d)",
                  WIFEXITED(status) ? "exit code" : "signal",
                  WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        return NULL;
    }
    return provider_answer_parse(settings, image, &output, clock_boot_ms(), error);
}

/* ---- what was answered ---- */

/* Those whose time is over, and the oldest of too many. */
static void forget_old(struct credential_provider *provider, uint64_t now)
{
    struct provider_answer *answer, *next;
    for (answer = TAILQ_FIRST(&provider->answers); answer; answer = next) {
        next = TAILQ_NEXT(answer, link);
        if (answer->until <= now) drop(provider, answer);
    }
    while (provider->count > ANSWERS_KEPT)
        drop(provider, TAILQ_LAST(&provider->answers, provider_answers));
}

static struct provider_answer *find_answer(const struct credential_provider *provider,
                                           const char *image)
{
    struct provider_answer *answer;
    TAILQ_FOREACH(answer, &provider->answers, link)
    {
        if (provider_answer_is_of(answer, image)) return answer;
    }
    return NULL;
}

static int give(const struct kept_secret *secret, struct credentials *ret, struct error **error)
{
    if (!secret) return 0;
    return kept_secret_read(secret, ret, error) < 0 ? -1 : 1;
}

static bool is_refused(const struct kept_secret *secret, const struct digest *refused)
{
    return secret && refused && digest_equal(refused, kept_secret_fingerprint(secret));
}

/* As credential_provider_find(), or 2 where it has to be run. */
static int find_kept(struct credential_provider *provider, const char *image,
                     const struct digest *refused, struct credentials *ret, struct error **error)
{
    uint64_t now = clock_boot_ms();
    forget_old(provider, now);
    struct provider_answer *answer = find_answer(provider, image);
    if (answer) {
        const struct kept_secret *secret = provider_answer_find(answer, image, refused);
        bool again = !answer->insists || now >= answer->obtained + AGAIN_MS;
        if (!is_refused(secret, refused) || !again) return give(secret, ret, error);
        drop(provider, answer);
    }
    if (now >= provider->failed_until) return 2;
    return error_set(error, ERROR_UNREACHABLE, "%s",
                     provider->failure ? provider->failure : "it has failed");
}

static bool is_readable(int descriptor)
{
    struct pollfd watched = { .fd = descriptor, .events = POLLIN };
    return poll(&watched, 1, 0) > 0;
}

static void wait_a_little(struct credential_provider *provider)
{
    clock_wait(&provider->changed, &provider->lock, clock_ms() + LOOK_AGAIN_MS);
}

/* 2: it is the caller's turn to run it. */
static int find_or_wait(struct credential_provider *provider, const char *image,
                        const struct digest *refused, int cancel_descriptor,
                        struct credentials *ret, struct error **error)
{
    for (;;) {
        int found = find_kept(provider, image, refused, ret, error);
        if (found != 2 || !provider->running) return found;
        if (is_readable(cancel_descriptor)) return error_set(error, ERROR_CANCELLED, "cancelled");
        wait_a_little(provider);
    }
}

static void note_failure(struct credential_provider *provider, const struct error *error)
{
    if (error_kind_of(error) == ERROR_CANCELLED) return;
    provider->failed_until = clock_boot_ms() + AGAIN_MS;
    free(provider->failure);
    provider->failure = strdup(error_message(error));
}

static int keep_and_give(struct credential_provider *provider, struct provider_answer *answer,
                         const char *image, const struct digest *refused, struct credentials *ret,
                         struct error **error)
{
    const struct kept_secret *secret = provider_answer_find(answer, image, refused);
    int result = give(secret, ret, error);
    answer->insists = is_refused(secret, refused);
    TAILQ_INSERT_HEAD(&provider->answers, answer, link);
    provider->count++;
    forget_old(provider, clock_boot_ms());
    return result;
}

static int find_or_run(struct credential_provider *provider, const char *image,
                       const struct digest *refused, int cancel_descriptor, struct credentials *ret,
                       struct error **error)
{
    struct error *failure = NULL;
    int found = find_or_wait(provider, image, refused, cancel_descriptor, ret, error);
    if (found != 2) return found;
    provider->running = true;
    pthread_mutex_unlock(&provider->lock);
    struct provider_answer *answer = run(&provider->settings, image, cancel_descriptor, &failure);
    pthread_mutex_lock(&provider->lock);
    provider->running = false;
    pthread_cond_broadcast(&provider->changed);
    if (answer) return keep_and_give(provider, answer, image, refused, ret, error);
    note_failure(provider, failure);
    return error_move(error, failure);
}

int credential_provider_find(struct credential_provider *provider, const char *image,
                             const struct digest *refused, int cancel_descriptor,
                             struct credentials *ret, struct error **error)
{
    *ret = (struct credentials){ 0 };
    pthread_mutex_lock(&provider->lock);
    int found = find_or_run(provider, image, refused, cancel_descriptor, ret, error);
    pthread_mutex_unlock(&provider->lock);
    if (found < 0) error_prefix(error, "credential provider '%s'", provider->settings.name);
    return found;
}
