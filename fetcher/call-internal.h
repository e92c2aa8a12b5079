/* Requests whose caller waits for the answer, which is collected in memory. */
#ifndef SLUICE_FETCHER_CALL_INTERNAL_H
#define SLUICE_FETCHER_CALL_INTERNAL_H

#include <pthread.h>

#include "fetcher/registry.h"
#include "fetcher/request-internal.h"

#define ACCEPT_MANIFESTS                                     \
    "application/vnd.oci.image.manifest.v1+json, "           \
    "application/vnd.oci.image.index.v1+json, "              \
    "application/vnd.docker.distribution.manifest.v2+json, " \
    "application/vnd.docker.distribution.manifest.list.v2+json"

struct call {
    struct request request;        /* set what is asked for before call_run() */
    size_t limit;                  /* of the body; more is ERROR_INVALID */
    const struct digest *expected; /* of the body; NULL: any. Checked at each attempt. */
    struct buffer body;
    struct digest digest; /* of the body; with `expected` only */
    struct digest_stream *hash;
    struct error *error;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
};

/*
 * Starts a call to "/v2/<name>/" and what `path` makes. Checks the registry's
 * and the repository's names. `what` ("get manifest 'foo:1'") is taken over; NULL: out of
 * memory. A call that was prepared, well or not, ends with call_release().
 */
int call_prepare(struct call *call, struct registry_client *client,
                 const struct repository *repository, char *what, struct error **error,
                 const char *path, ...) __attribute__((format(printf, 6, 7)));
/* The same to a whole URL, taken over, that the registry has named. */
int call_prepare_url(struct call *call, struct registry_client *client,
                     const struct repository *repository, char *what, char *url,
                     struct error **error);

/* Sends and waits. call->request.exchange.answer holds the last answer, if any (status 0: none),
 * also on failure; call->body what is to be read, and call->request.current_url where it was. */
int call_run(struct call *call, struct error **error);
void call_release(struct call *call);
#define cleanup_call __attribute__((cleanup(call_release)))

/* registry_get_manifest(), of hosts that can do what is `needed`. */
int manifest_get(struct registry_client *client, const struct repository *repository,
                 const char *target, unsigned needed, struct registry_manifest *ret,
                 struct error **error);

/* Checks the names. */
int repository_check(const struct repository *repository, struct error **error);

#endif
