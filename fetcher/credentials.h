/*
 * What is shown to a registry or its token server: how it is asked for, and how question and answer
 * travel between a process that talks to registries and one that may look for secrets.
 */
#ifndef SLUICE_FETCHER_CREDENTIALS_H
#define SLUICE_FETCHER_CREDENTIALS_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

/* Everything NULL: there are none. All strings are owned. */
struct credentials {
    char *user;
    char *password;
    char *identity_token; /* an OAuth2 refresh token; then there is no password */
    char *registry_token; /* a Bearer token for the registry itself; then there is nothing else */
    char *problem;        /* one line: why the search may have missed some; no secrets */
};

static inline bool credentials_are_known(const struct credentials *credentials)
{
    return credentials->registry_token || credentials->identity_token ||
           (credentials->user && credentials->password);
}

/* Overwrites the secrets before it frees them. */
void credentials_free(struct credentials *credentials);
/* The same for one string; NULL is fine. */
void secret_free(char *secret);
/* The same for a buffer. */
void secret_buffer_free(struct buffer *buffer);
#define cleanup_secret __attribute__((cleanup(secret_buffer_free)))

/* By which two can be told apart without showing them. -1: out of memory. */
int credentials_fingerprint(const struct credentials *credentials, struct digest *ret);

/* From base64 of "user:password", as docker's configuration has it under "auth". 1, or -1 with an
 * error that quotes nothing of it. */
int credentials_decode_auth(const char *auth, struct credentials *ret, struct error **error);

/* Whether docker means `registry` by `key`, a host or an old address ("https://host/v1/"). */
bool credentials_key_matches(const char *key, const char *registry);

/* Whether it can stand in a header. */
bool registry_token_is_valid(const char *token);

/*
 * Searches docker's configuration (then podman's), and the credential helpers that it names, for
 * `registry`. May run a program and take up to 30 s; ends early when `cancel_descriptor` becomes
 * readable. What goes wrong is told in ret->problem, because anonymous access may still be enough.
 */
void credentials_search(const char *registry, int cancel_descriptor, struct credentials *ret);

/* ---- between processes ---- */

struct credentials_question {
    const char *registry;         /* or a mirror: whoever is to be shown them */
    const char *repository;       /* "library/python" */
    const struct digest *refused; /* the fingerprint of those that it has refused; NULL: none */
};

/* One line of text; in fresh memory. NULL: out of memory. */
char *credentials_question_format(const struct credentials_question *question);

/* A question that has been read. */
struct credentials_asked {
    struct credentials_question question;
    char *text;
    struct digest refused;
};
/* ERROR_INVALID: no question, or about what is no name. */
int credentials_question_parse(struct credentials_asked *ret, const char *text,
                               struct error **error);
void credentials_asked_free(struct credentials_asked *asked);

/* The answer, with the secrets. */
int credentials_write(const struct credentials *credentials, struct buffer *ret,
                      struct error **error);
/* ERROR_INVALID: it is none. */
int credentials_read(const struct buffer *text, struct credentials *ret, struct error **error);

#endif
