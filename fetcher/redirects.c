#include "fetcher/redirects-internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fetcher/credentials-internal.h"

/* Signatures live for 5 to 60 minutes with the registries that are in use; one that
 * has ended earlier costs a refused request, then a fresh one is asked for. */
#define KEPT_MS (4 * 60 * 1000)

static void empty(struct redirect *redirect)
{
    free(redirect->url);
    secret_free(redirect->target);
    *redirect = (struct redirect){ 0 };
}

static struct redirect *find(struct redirects *redirects, const char *url)
{
    for (size_t i = 0; i < REDIRECTS_KEPT; i++) {
        struct redirect *redirect = &redirects->kept[i];
        if (redirect->url && strcmp(redirect->url, url) == 0) return redirect;
    }
    return NULL;
}

const char *redirects_find(struct redirects *redirects, const char *url)
{
    struct redirect *redirect = find(redirects, url);
    if (!redirect) return NULL;
    if (redirect->until > clock_ms()) return redirect->target;
    empty(redirect);
    return NULL;
}

void redirects_keep(struct redirects *redirects, const char *url, const char *target)
{
    struct redirect *redirect = find(redirects, url);
    if (!redirect) {
        redirect = &redirects->kept[redirects->next];
        redirects->next = (redirects->next + 1) % REDIRECTS_KEPT;
    }
    struct redirect made = { strdup(url), strdup(target), clock_ms() + KEPT_MS };
    empty(redirect);
    if (made.url && made.target)
        *redirect = made;
    else
        empty(&made);
}

void redirects_forget(struct redirects *redirects, const char *url)
{
    struct redirect *redirect = find(redirects, url);
    if (redirect) empty(redirect);
}

void redirects_free(struct redirects *redirects)
{
    for (size_t i = 0; i < REDIRECTS_KEPT; i++)
        empty(&redirects->kept[i]);
}
