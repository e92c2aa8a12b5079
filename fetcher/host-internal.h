/*
 * The hosts of a registry while a client works with them: which is asked next,
 * which is left alone for a while. On the transfer thread only.
 */
#ifndef SLUICE_FETCHER_HOST_INTERNAL_H
#define SLUICE_FETCHER_HOST_INTERNAL_H

#include "fetcher/client-internal.h"
#include "fetcher/hosts-internal.h"

struct login;
TAILQ_HEAD(login_list, login);

struct registry_host {
    struct registry_client *client;
    char *name;     /* "mirror:5000", "docker.io": what credentials are stored under */
    char *api;      /* "https://registry-1.docker.io/v2" */
    bool is_mirror; /* it has to be told which registry is meant */
    unsigned position;
    struct host_settings own;
    struct exchange_settings settings; /* `own` and what the client is set to */
    uint64_t aside_until;              /* clock_ms(); others are asked first until then; 0: not */
    bool distrusted;                   /* until then, however well it answers */

    struct pace pace; /* of range.c */

    /* Of ranges.c. */
    uint64_t single_until; /* clock_ms(); until then it is asked for one range at a time; 0: not */

    /* Of ranged.c. */
    bool whole_blobs_told; /* it was logged that it ignores ranges */

    /* Of login.c; the one made first is the first. */
    struct login_list logins;
    unsigned login_count;
};

struct registry {
    TAILQ_ENTRY(registry) link;
    char *name;
    struct registry_host **hosts; /* in the order of the settings; never none */
    size_t count;
    uint64_t trouble_told; /* clock_ms() of the last line in the log that it is away; 0: none */
};

/* The registry, its settings read when it is new. */
struct registry *registry_get(struct registry_client *client, const char *name,
                              struct error **error);
void registries_free(struct registry_client *client);
/* Ends the searches for credentials soon: their helpers are killed. */
void registries_stop(struct registry_client *client);

/* Of those that can do what is `needed` (enum host_capability) and whose bit is not in `asked`, the
 * one to ask next; NULL: none is left. Of those that pushes may go to there is only the first, for
 * what was pushed in parts must be in one place. */
struct registry_host *registry_choose(struct registry *registry, unsigned needed, uint32_t asked);
/* Whether registry_choose() would give one more. */
bool registry_has_more(const struct registry *registry, unsigned needed, uint32_t asked);
/* Whether there is one that is not set aside among them. */
bool registry_has_well(const struct registry *registry, unsigned needed, uint32_t asked);
/* The one that an address which a registry has named belongs to. NULL: none can do this. */
struct registry_host *registry_host_at(const struct registry *registry, unsigned needed,
                                       const char *url);
/* The one whose word counts in the end; NULL: none can do this. */
const struct registry_host *registry_authority(const struct registry *registry, unsigned needed);

/* It failed: others are asked first for a while. */
void host_set_aside(struct registry_host *host, uint64_t milliseconds);
/* It gave wrong bytes, and will answer others that are under way. */
void host_distrust(struct registry_host *host, uint64_t milliseconds);
/* It answered. */
void host_take_back(struct registry_host *host);

#endif
