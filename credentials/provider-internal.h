/* What a provider is, and what it answers. */
#ifndef SLUICE_CREDENTIALS_PROVIDER_INTERNAL_H
#define SLUICE_CREDENTIALS_PROVIDER_INTERNAL_H

#include <pthread.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/buffer.h"
#include "credentials/provider.h"

struct kept_secret;

/* provider_config.c's */
struct provider_settings {
    char *name;
    char *path; /* of the program */
    char *api;  /* "credentialprovider.kubelet.k8s.io/v1": of request and answer */
    char **patterns;
    size_t pattern_count;
    uint64_t cache_ms;  /* where an answer does not say */
    char **arguments;   /* with the program's name; ended by NULL */
    char **environment; /* ended by NULL */
};

struct provider_answer {
    TAILQ_ENTRY(provider_answer) link;
    char *of; /* the image or the registry that it is for; NULL: for all images */
    struct provider_entry {
        char *pattern;
        struct kept_secret *secret;
    } * entries;
    size_t count;
    uint64_t obtained, until; /* milliseconds; until when it may be given again */
    bool insists;             /* on what was refused before it was asked for */
};
TAILQ_HEAD(provider_answers, provider_answer);

struct credential_provider {
    struct provider_settings settings;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool running;
    uint64_t failed_until;
    char *failure;                   /* why it has failed lately */
    struct provider_answers answers; /* the newest first */
    size_t count;
};

void provider_settings_free(struct provider_settings *settings);
/* Takes the settings over, also where it fails. */
struct credential_provider *credential_provider_new(struct provider_settings *settings,
                                                    struct error **error);
void credential_provider_free(struct credential_provider *provider);

/* provider_answer.c: the answer to the question for `image`, at the time `now`. Errors quote
 * nothing of it. */
struct provider_answer *provider_answer_parse(const struct provider_settings *settings,
                                              const char *image, const struct buffer *text,
                                              uint64_t now, struct error **error);
void provider_answer_free(struct provider_answer *answer);
/* Whether it was meant for `image`, too. */
bool provider_answer_is_of(const struct provider_answer *answer, const char *image);
/* What it says of `image`, not what was `refused` (or NULL) where there is something else; NULL:
 * nothing. */
const struct kept_secret *provider_answer_find(const struct provider_answer *answer,
                                               const char *image, const struct digest *refused);

#endif
