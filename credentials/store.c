#include "credentials/store.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "credentials/kept_secret.h"
#include "credentials/provider.h"
#include "fetcher/reference.h"

#define KEPT_MAX 1024u

/* What came with a pull. */
struct kept {
    TAILQ_ENTRY(kept) link;
    char *registry, *repository;
    struct kept_secret *secret;
    uint64_t since; /* milliseconds */
    bool refused;   /* since then */
};
TAILQ_HEAD(kept_list, kept);

struct credential_store {
    uint64_t keep_ms;
    struct credential_providers providers;
    pthread_mutex_t lock;
    struct kept_list
        kept; /* the one used last is the first, those that were refused are the last */
    unsigned count;
};

/* ---- what came with pulls; with the lock ---- */

static void kept_free(struct kept *kept)
{
    if (!kept) return;
    free(kept->registry);
    free(kept->repository);
    kept_secret_free(kept->secret);
    free(kept);
}

static void drop(struct credential_store *store, struct kept *kept)
{
    TAILQ_REMOVE(&store->kept, kept, link);
    store->count--;
    kept_free(kept);
}

static void forget_old(struct credential_store *store)
{
    struct kept *kept, *next;
    uint64_t now = clock_boot_ms();
    for (kept = TAILQ_FIRST(&store->kept); kept && store->keep_ms; kept = next) {
        next = TAILQ_NEXT(kept, link);
        if (now - kept->since >= store->keep_ms) drop(store, kept);
    }
    while (store->count > KEPT_MAX)
        drop(store, TAILQ_LAST(&store->kept, kept_list));
}

static bool is_for(const struct kept *kept, const char *registry, const char *repository)
{
    return strcmp(kept->registry, registry) == 0 && strcmp(kept->repository, repository) == 0;
}

static struct kept *find_equal(const struct credential_store *store, const struct kept *wanted)
{
    struct kept *kept;
    TAILQ_FOREACH(kept, &store->kept, link)
    {
        if (is_for(kept, wanted->registry, wanted->repository) &&
            digest_equal(kept_secret_fingerprint(kept->secret),
                         kept_secret_fingerprint(wanted->secret)))
            return kept;
    }
    return NULL;
}

/* The first for the question that was not refused, or was (`refused`). */
static struct kept *find_kept(const struct credential_store *store,
                              const struct credentials_question *question, bool refused)
{
    struct kept *kept;
    TAILQ_FOREACH(kept, &store->kept, link)
    {
        if (kept->refused == refused && is_for(kept, question->registry, question->repository))
            return kept;
    }
    return NULL;
}

/* To the end, where it is asked for last and forgotten first. */
static void note_refused(struct credential_store *store,
                         const struct credentials_question *question)
{
    struct kept *kept;
    TAILQ_FOREACH(kept, &store->kept, link)
    {
        if (!is_for(kept, question->registry, question->repository) ||
            !digest_equal(kept_secret_fingerprint(kept->secret), question->refused))
            continue;
        kept->refused = true;
        TAILQ_REMOVE(&store->kept, kept, link);
        TAILQ_INSERT_TAIL(&store->kept, kept, link);
        return;
    }
}

/* 1: found, 0: none, -1: error */
static int find_from_pulls(struct credential_store *store,
                           const struct credentials_question *question, bool refused,
                           struct credentials *ret, struct error **error)
{
    int result = 0;
    pthread_mutex_lock(&store->lock);
    forget_old(store);
    if (question->refused && !refused) note_refused(store, question);
    struct kept *kept = find_kept(store, question, refused);
    if (kept) result = kept_secret_read(kept->secret, ret, error) < 0 ? -1 : 1;
    if (kept && !refused) {
        TAILQ_REMOVE(&store->kept, kept, link);
        TAILQ_INSERT_HEAD(&store->kept, kept, link);
    }
    pthread_mutex_unlock(&store->lock);
    return result;
}

static struct kept *kept_new(const char *image, const struct credentials *credentials,
                             struct error **error)
{
    struct image_reference reference;
    if (image_reference_parse(&reference, image, error) < 0) return NULL;
    struct kept *kept = calloc(1, sizeof *kept);
    if (kept) {
        kept->registry = take_pointer(&reference.registry);
        kept->repository = take_pointer(&reference.repository);
        kept->since = clock_boot_ms();
        kept->secret = kept_secret_new(credentials, error);
    } else {
        error_set_memory(error);
    }
    image_reference_free(&reference);
    if (kept && kept->secret) return kept;
    kept_free(kept);
    return NULL;
}

int credential_store_put(struct credential_store *store, const char *image,
                         const struct credentials *credentials, struct error **error)
{
    struct kept *kept = kept_new(image, credentials, error);
    if (!kept) return -1;
    pthread_mutex_lock(&store->lock);
    struct kept *before = find_equal(store, kept);
    if (before) drop(store, before);
    TAILQ_INSERT_HEAD(&store->kept, kept, link);
    store->count++;
    forget_old(store);
    pthread_mutex_unlock(&store->lock);
    return before ? 0 : 1;
}

void credential_store_drop(struct credential_store *store, const char *image,
                           const struct credentials *credentials)
{
    struct kept *wanted = kept_new(image, credentials, NULL);
    if (!wanted) return;
    pthread_mutex_lock(&store->lock);
    struct kept *kept = find_equal(store, wanted);
    if (kept) drop(store, kept);
    pthread_mutex_unlock(&store->lock);
    kept_free(wanted);
}

/* ---- the search ---- */

struct search {
    const struct credentials_question *question;
    int cancel_descriptor;
    struct credentials found, refused; /* `refused` is better than nothing */
    char *problem;                     /* the first */
};

static void note_problem(struct search *search, const char *problem)
{
    if (!search->problem) search->problem = strdup(problem);
}

/* Takes `found`, from a place that gives what it has. Whether that ends the search. */
static bool consider(struct search *search, struct credentials *found)
{
    struct digest fingerprint;
    const struct digest *refused = search->question->refused;
    if (!credentials_are_known(found)) {
        credentials_free(found);
        return false;
    }
    bool no_good = refused && credentials_fingerprint(found, &fingerprint) == 0 &&
                   digest_equal(&fingerprint, refused);
    struct credentials *place = no_good ? &search->refused : &search->found;
    credentials_free(place);
    *place = *found;
    *found = (struct credentials){ 0 };
    return !no_good;
}

static bool ask_pulls(struct credential_store *store, struct search *search, bool refused)
{
    cleanup_error struct error *error = NULL;
    struct credentials found = { 0 };
    if (find_from_pulls(store, search->question, refused, &found, &error) < 0)
        note_problem(search, error_message(error));
    return consider(search, &found);
}

static bool ask_providers(const struct credential_store *store, struct search *search)
{
    const struct credentials_question *question = search->question;
    cleanup_free char *image = format_text("%s/%s", question->registry, question->repository);
    for (size_t i = 0; image && i < store->providers.count; i++) {
        struct credential_provider *provider = store->providers.providers[i];
        cleanup_error struct error *error = NULL;
        struct credentials found = { 0 };
        if (!credential_provider_knows(provider, image)) continue;
        if (credential_provider_find(provider, image, question->refused, search->cancel_descriptor,
                                     &found, &error) < 0)
            note_problem(search, error_message(error));
        if (consider(search, &found)) return true;
    }
    return false;
}

static bool ask_docker(struct search *search)
{
    struct credentials found;
    credentials_search(search->question->registry, search->cancel_descriptor, &found);
    if (found.problem) note_problem(search, found.problem);
    return consider(search, &found);
}

int credential_store_find(void *context, const struct credentials_question *question,
                          int cancel_descriptor, struct buffer *ret, struct error **error)
{
    struct credential_store *store = context;
    struct search search = { .question = question, .cancel_descriptor = cancel_descriptor };
    if (!ask_pulls(store, &search, false) && !ask_providers(store, &search) &&
        !ask_docker(&search) && !ask_pulls(store, &search, true)) {
        search.found = search.refused;
        search.refused = (struct credentials){ 0 };
    }
    free(search.found.problem);
    search.found.problem = search.problem;
    int result = credentials_write(&search.found, ret, error);
    credentials_free(&search.found);
    credentials_free(&search.refused);
    return result;
}

/* ---- making ---- */

struct credential_store *credential_store_new(const struct credential_store_options *options,
                                              struct error **error)
{
    static const struct credential_store_options none;
    if (!options) options = &none;
    struct credential_store *store = calloc(1, sizeof *store);
    if (!store) {
        error_set_memory(error);
        return NULL;
    }
    store->keep_ms = options->keep_ms;
    if (options->provider_config &&
        credential_providers_read(&store->providers, options->provider_config,
                                  options->provider_directory, error) < 0) {
        free(store);
        return NULL;
    }
    pthread_mutex_init(&store->lock, NULL);
    TAILQ_INIT(&store->kept);
    return store;
}

void credential_store_free(struct credential_store *store)
{
    if (!store) return;
    while (!TAILQ_EMPTY(&store->kept))
        drop(store, TAILQ_FIRST(&store->kept));
    credential_providers_free(&store->providers);
    pthread_mutex_destroy(&store->lock);
    free(store);
}
