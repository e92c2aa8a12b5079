#include "fetcher/host-internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/login-internal.h"
#include "fetcher/quirks-internal.h"
#include "fetcher/reference.h"
#include "fetcher/url-internal.h"

#define AUTHORITIES_LIMIT (8u << 20)
#define PROBE_MS          10000 /* one request tries a host again; others wait for what it finds */

/* ---- making ---- */

static void host_free(struct registry_host *host)
{
    if (!host) return;
    logins_free(host);
    host_settings_free(&host->own);
    buffer_free(&host->settings.authorities);
    free(host->name);
    free(host->api);
    free(host);
}

static void registry_free(struct registry *registry)
{
    for (size_t i = 0; registry->hosts && i < registry->count; i++)
        host_free(registry->hosts[i]);
    free(registry->hosts);
    free(registry->name);
    free(registry);
}

/* TLS is spoken unless it is not wanted; on the loopback only where it was set up. */
static char *default_api(const struct registry_client *client, const char *registry,
                         const struct host_settings *own)
{
    bool plain = client->plain_http || (registry_is_loopback(registry) && !own->tls_configured);
    return format_text("%s://%s/v2", plain ? "http" : "https", quirk_api_host(registry));
}

/* The same address with the host at which the API really is. */
static char *named_api(const char *api)
{
    char host[URL_HOST_LIMIT];
    url_host(api, host);
    const char *real = quirk_api_host(host);
    if (strcasecmp(host, real) == 0) return strdup(api);
    const char *start = strstr(api, host);
    if (!start) return strdup(api);
    return format_text("%.*s%s%s", (int)(start - api), api, real, start + strlen(host));
}

/* libcurl takes one text of certificates: what SSL_CERT_FILE names, then the host's own. The
 * system's directory is trusted besides. */
static int gather_authorities(struct registry_host *host, struct error **error)
{
    struct buffer *all = &host->settings.authorities;
    const char *file = host->settings.certificate_file;
    if (host->own.authorities.length == 0) return 0;
    if (file && file_read(file, AUTHORITIES_LIMIT, all, error) < 0) return -1;
    if (buffer_append_u8(all, '\n') == 0 &&
        buffer_append(all, host->own.authorities.data, host->own.authorities.length) == 0)
        return 0;
    return error_set_memory(error);
}

/* Takes `own`. */
static struct registry_host *host_new(struct registry_client *client, const char *registry,
                                      struct host_settings *own, struct error **error)
{
    struct registry_host *host = calloc(1, sizeof *host);
    char name[URL_HOST_LIMIT];
    if (!host) {
        error_set_memory(error);
        return NULL;
    }
    TAILQ_INIT(&host->logins);
    host->client = client;
    host->own = *own;
    *own = (struct host_settings){ 0 };
    host->api =
        host->own.api ? named_api(host->own.api) : default_api(client, registry, &host->own);
    if (host->api) {
        url_host(host->api, name);
        host->is_mirror = strcasecmp(name, quirk_api_host(registry)) != 0;
        host->name = strdup(host->is_mirror ? quirk_registry_name(name) : registry);
    }
    host->settings = client->settings;
    host->settings.authorities = (struct buffer){ 0 };
    host->settings.client_certificate = host->own.client_certificate;
    host->settings.client_key = host->own.client_key;
    host->settings.skip_verify = host->own.skip_verify;
    if (!host->api || !host->name)
        error_set_memory(error);
    else if (gather_authorities(host, error) == 0)
        return host;
    host_free(host);
    return NULL;
}

static struct registry *registry_new(struct registry_client *client, const char *name,
                                     struct host_list *list, struct error **error)
{
    struct registry *registry = calloc(1, sizeof *registry);
    if (registry) registry->name = strdup(name);
    if (registry) registry->hosts = calloc(list->count, sizeof *registry->hosts);
    if (!registry || !registry->name || !registry->hosts) {
        if (registry) registry_free(registry);
        error_set_memory(error);
        return NULL;
    }
    for (; registry->count < list->count; registry->count++) {
        struct host_settings *own = &list->hosts[registry->count];
        struct registry_host *host = host_new(client, name, own, error);
        if (!host) {
            registry_free(registry);
            return NULL;
        }
        host->position = (unsigned)registry->count;
        registry->hosts[registry->count] = host;
    }
    return registry;
}

struct registry *registry_get(struct registry_client *client, const char *name,
                              struct error **error)
{
    struct registry *registry;
    struct host_list list;
    TAILQ_FOREACH(registry, &client->registries, link)
    {
        if (strcasecmp(registry->name, name) == 0) return registry;
    }
    if (hosts_find(client->hosts_directories, name, &list, error) < 0) return NULL;
    registry = registry_new(client, name, &list, error);
    host_list_free(&list);
    if (registry) TAILQ_INSERT_TAIL(&client->registries, registry, link);
    return registry;
}

void registries_free(struct registry_client *client)
{
    struct registry *registry;
    while ((registry = TAILQ_FIRST(&client->registries))) {
        TAILQ_REMOVE(&client->registries, registry, link);
        registry_free(registry);
    }
}

void registries_stop(struct registry_client *client)
{
    struct registry *registry;
    TAILQ_FOREACH(registry, &client->registries, link)
    {
        for (size_t i = 0; i < registry->count; i++)
            logins_stop(registry->hosts[i]);
    }
}

/* ---- choosing ---- */

static bool is_capable(const struct registry_host *host, unsigned needed)
{
    if (needed & HOST_PUSH) needed = HOST_PUSH;
    return (host->own.capabilities & needed) == needed;
}

/* A host whose time aside is over is tried by one request; the others go on as before until that
 * one knows. */
static bool is_aside(struct registry_host *host)
{
    uint64_t now = clock_ms();
    if (!host->aside_until) return false;
    if (host->aside_until > now) return true;
    host->aside_until = now + PROBE_MS;
    host->distrusted = false;
    return false;
}

struct registry_host *registry_choose(struct registry *registry, unsigned needed, uint32_t asked)
{
    struct registry_host *last_resort = NULL;
    for (size_t i = 0; i < registry->count; i++) {
        struct registry_host *host = registry->hosts[i];
        if (!is_capable(host, needed)) continue;
        bool had = asked & (UINT32_C(1) << i);
        if (needed & HOST_PUSH) return had ? NULL : host;
        if (had) continue;
        if (!is_aside(host)) return host;
        if (!last_resort) last_resort = host;
    }
    return last_resort;
}

bool registry_has_more(const struct registry *registry, unsigned needed, uint32_t asked)
{
    for (size_t i = 0; i < registry->count && !(needed & HOST_PUSH); i++)
        if (is_capable(registry->hosts[i], needed) && !(asked & (UINT32_C(1) << i))) return true;
    return false;
}

bool registry_has_well(const struct registry *registry, unsigned needed, uint32_t asked)
{
    uint64_t now = clock_ms();
    for (size_t i = 0; i < registry->count; i++)
        if (is_capable(registry->hosts[i], needed) && registry->hosts[i]->aside_until <= now &&
            !(asked & (UINT32_C(1) << i)))
            return true;
    return false;
}

const struct registry_host *registry_authority(const struct registry *registry, unsigned needed)
{
    for (size_t i = 0; i < registry->count && needed & HOST_PUSH; i++)
        if (is_capable(registry->hosts[i], needed)) return registry->hosts[i];
    for (size_t i = registry->count; i-- > 0;)
        if (is_capable(registry->hosts[i], needed)) return registry->hosts[i];
    return NULL;
}

struct registry_host *registry_host_at(const struct registry *registry, unsigned needed,
                                       const char *url)
{
    struct registry_host *first = NULL;
    for (size_t i = 0; i < registry->count; i++) {
        struct registry_host *host = registry->hosts[i];
        if (!is_capable(host, needed)) continue;
        if (url_same_origin(host->api, url)) return host;
        if (!first) first = host;
    }
    return first;
}

void host_set_aside(struct registry_host *host, uint64_t milliseconds)
{
    uint64_t until = clock_ms() + milliseconds;
    if (!host->aside_until) log_info("host %s is asked last for a while", host->name);
    if (!host->distrusted || host->aside_until < until) host->aside_until = until;
}

void host_distrust(struct registry_host *host, uint64_t milliseconds)
{
    host_set_aside(host, milliseconds);
    host->distrusted = true;
}

void host_take_back(struct registry_host *host)
{
    if (!host->distrusted) host->aside_until = 0;
}
