/*
 * kubelet's credential provider plugins: programs that are asked for the credentials of an image
 * (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/). The same
 * configuration and programs serve that kubelet uses.
 */
#ifndef SLUICE_CREDENTIALS_PROVIDER_H
#define SLUICE_CREDENTIALS_PROVIDER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "fetcher/credentials.h"

struct credential_provider;

struct credential_providers {
    struct credential_provider **providers; /* in the order of the configuration */
    size_t count;
};

/*
 * `config` is kubelet's --image-credential-provider-config (CredentialProviderConfig in YAML or
 * JSON), `directory` its --image-credential-provider-bin-dir. Programs that need a token of the
 * pod's service account are left out, with a line in the log.
 */
int credential_providers_read(struct credential_providers *ret, const char *config,
                              const char *directory, struct error **error);
void credential_providers_free(struct credential_providers *providers);

const char *credential_provider_name(const struct credential_provider *provider);
/* `image`: registry and repository. */
bool credential_provider_knows(const struct credential_provider *provider, const char *image);

/*
 * What it answered lately, as long as its answer says that this holds, else what it answers now.
 * One run serves all who ask meanwhile, and one that failed all who ask within some seconds.
 * What was `refused` (a fingerprint, or NULL) is asked for anew, and given again only when the
 * provider insists. 1: `ret` is set; 0: it knows none; -1: error. From any thread; may take half a
 * minute, ends early when `cancel_descriptor` (or -1) is readable.
 */
int credential_provider_find(struct credential_provider *provider, const char *image,
                             const struct digest *refused, int cancel_descriptor,
                             struct credentials *ret, struct error **error);

#endif
