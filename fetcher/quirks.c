#include "fetcher/quirks-internal.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

/*
 * Docker Hub is called "docker.io" by people, has its API at "registry-1.docker.io" (at "docker.io"
 * there are web pages, although many a hosts.toml names it as the server), and once was
 * "index.docker.io/v1", which is what `docker login` still stores passwords under:
 * https://github.com/distribution/reference/blob/main/normalize.go
 * https://github.com/moby/moby/blob/master/registry/config.go
 * https://github.com/containerd/containerd/blob/main/docs/hosts.md
 */
static const struct {
    const char *name;
    const char *aliases[3];
    const char *api_host;
    const char *credentials_key;
    const char *name_space; /* of repositories that have none */
} known[] = { { .name = "docker.io",
                .aliases = { "index.docker.io", "registry-1.docker.io" },
                .api_host = "registry-1.docker.io",
                .credentials_key = "https://index.docker.io/v1/",
                .name_space = "library/" } };

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
