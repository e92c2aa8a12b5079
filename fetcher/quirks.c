#include "fetcher/quirks-internal.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

/*
 * Names.
 *
 * Docker Hub is called "docker.io" by people, has its API at "registry-1.docker.io" (at "docker.io"
 * there are web pages, although many a hosts.toml names it as the server), and once was
 * "index.docker.io/v1", which is what `docker login` still stores passwords under:
 * https://github.com/distribution/reference/blob/main/normalize.go
 * https://github.com/moby/moby/blob/master/registry/config.go
 * https://github.com/containerd/containerd/blob/main/docs/hosts.md
 */
static const struct {
    const char *name;
    const char *aliases[3]; /* ended by NULL */
    const char *api_host;
    const char *credentials_key;
    const char *name_space; /* of repositories that have none */
} known[] = { { .name = "docker.io",
                .aliases = { "index.docker.io", "registry-1.docker.io" },
                .api_host = "registry-1.docker.io",
                .credentials_key = "https://index.docker.io/v1/",
                .name_space = "library/" } };

/*
 * Behaviour that is met with everywhere because it is not told by a name: others take it over, and
 * the same product answers under any name.
 *
 * - Amazon ECR has answered pushes with OCI-Subject and listed nothing
 *   (https://github.com/sigstore/sigstore-js/pull/1183): after such an answer the list is asked
 * for, and without one the fallback tag is written (deploytool/index_push.c).
 * - GitLab takes the tag "sha256-<hex>" for the digest
 *   (https://github.com/oras-project/oras-go/issues/1396): quirk_tag_is_subject().
 * - Without the Referrers API the answer is 404 by specification, and 400, 405, 406, 501 or a web
 *   page in practice (referrers.c).
 * - Manifests come without Docker-Content-Digest from Red Hat's registry and others, and HEAD is
 *   then worth nothing (https://github.com/containerd/containerd/issues/3238): registry.c asks
 * again with GET.
 * - Storage that GHCR and Docker Hub redirect to refuses HEAD
 *   (https://github.com/containerd/stargz-snapshotter/pull/167): where only presence is asked for,
 *   the redirect is the answer (request->redirect_suffices).
 * - Storage refuses requests that are signed twice (S3: "Only one auth mechanism allowed",
 *   https://github.com/open-policy-agent/opa/issues/6580; Azure:
 *   https://github.com/Azure/acr/issues/217): authorization stays at the registry's origin, which
 *   it must anyway (request_exchange.c).
 * - A redirect's signature ends after five minutes at GHCR (stargz-snapshotter, as above), and the
 *   refusal is a 400, 401, 403, 404 or 410: redirects.c, and request_exchange.c asks for a new one.
 * - distribution as a pull-through cache gives the whole blob for a range until it has it
 *   (https://github.com/distribution/distribution/issues/4667): ranged.c takes the bytes out of it.
 * - ECR, and storages like S3, answer several ranges with the whole blob or the first of them
 *   (https://github.com/containerd/stargz-snapshotter/pull/350): such a host is then asked for one
 *   at a time (ranges.c).
 * - distribution on a file system reads what another push of the same manifest has half written,
 *   and refuses with DIGEST_INVALID: answer_is_transient().
 * - Content-Encoding: gzip may be the storage's mark on a blob that is gzip itself. Bytes are taken
 *   as they come; their digest decides.
 */

/* -1: nothing special. */
static int find(const char *host)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcasecmp(host, known[i].name) == 0) return (int)i;
        for (const char *const *alias = known[i].aliases; *alias; alias++)
            if (strcasecmp(host, *alias) == 0) return (int)i;
    }
    return -1;
}

const char *quirk_registry_name(const char *host)
{
    int found = find(host);
    return found < 0 ? host : known[found].name;
}

const char *quirk_api_host(const char *registry)
{
    int found = find(registry);
    return found < 0 ? registry : known[found].api_host;
}

const char *const *quirk_aliases(const char *registry)
{
    static const char *const none[] = { NULL };
    int found = find(registry);
    return found < 0 ? none : known[found].aliases;
}

const char *quirk_credentials_key(const char *registry)
{
    int found = find(registry);
    return found < 0 ? registry : known[found].credentials_key;
}

const char *quirk_namespace(const char *registry)
{
    int found = find(registry);
    return found < 0 ? "" : known[found].name_space;
}

bool quirk_tag_is_subject(const struct digest *found, const struct digest *subject)
{
    return digest_equal(found, subject);
}
