/*
 * Where the credentials of the node's images come from: what came with a pull by CRI, kubelet's
 * credential provider plugins, docker's configuration and its helpers, in this order. What a
 * registry has refused comes behind everything else. Nothing of it is written anywhere.
 */
#ifndef SLUICE_CREDENTIALS_STORE_H
#define SLUICE_CREDENTIALS_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fetcher/registry.h"

struct credential_store;

struct credential_store_options {
    uint64_t keep_ms;            /* what came with a pull is forgotten so long after it; 0: never */
    const char *provider_config; /* as credential_providers_read(); NULL: there are none */
    const char *provider_directory; /* with it */
};

/* `options` may be NULL. */
struct credential_store *credential_store_new(const struct credential_store_options *options,
                                              struct error **error);
/* Not while anybody searches. Overwrites the secrets. NULL is fine. */
void credential_store_free(struct credential_store *store);

/* What came with a pull of `image`, for images of the same repository: comes before what came with
 * others. The least recently used of more than a thousand go. 1: it is new; 0: it was there. */
int credential_store_put(struct credential_store *store, const char *image,
                         const struct credentials *credentials, struct error **error);
/* The pull that they came with has failed. */
void credential_store_drop(struct credential_store *store, const char *image,
                           const struct credentials *credentials);

/* A registry_credentials (fetcher/registry.h); `context` is the store. */
registry_credentials credential_store_find;

#endif
