/*
 * What known registries do otherwise than the specifications or the names that people use would
 * have it; everything that changes what is done here, and where it is written down.
 */
#ifndef SLUICE_FETCHER_QUIRKS_INTERNAL_H
#define SLUICE_FETCHER_QUIRKS_INTERNAL_H

#include <stdbool.h>

#include "base/digest.h"

/* The registry as people mean it: "docker.io" for "index.docker.io". Returns `host` itself for all
 * others. */
const char *quirk_registry_name(const char *host);
/* Where the API of `registry` is: "registry-1.docker.io". */
const char *quirk_api_host(const char *registry);
/* Further names of `registry`, ended by NULL. */
const char *const *quirk_aliases(const char *registry);
/* What docker's configuration and its helpers know `registry` by. */
const char *quirk_credentials_key(const char *registry);
/* How `repository`, which has no namespace, begins in full at `registry`: "library/"; or "". */
const char *quirk_namespace(const char *registry);

/* What was found under a subject's fallback tag is no list of referrers, but the subject. */
bool quirk_tag_is_subject(const struct digest *found, const struct digest *subject);

#endif
