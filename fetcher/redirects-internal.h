/*
 * Where blobs were redirected to lately. Registries keep blobs in object stores
 * and answer each request with a signed URL; asking for one per range would
 * double the latency of every read. On the transfer thread only.
 */
#ifndef SLUICE_FETCHER_REDIRECTS_INTERNAL_H
#define SLUICE_FETCHER_REDIRECTS_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define REDIRECTS_KEPT 64

struct redirects {
    struct redirect {
        char *url;    /* at the registry; NULL: empty */
        char *target; /* holds a signature: never shown */
        uint64_t until;
    } kept[REDIRECTS_KEPT];
    size_t next; /* to be replaced when all are taken */
};

/* Borrowed until the next call; NULL: none. */
const char *redirects_find(struct redirects *redirects, const char *url);
/* When memory is short, nothing is kept. */
void redirects_keep(struct redirects *redirects, const char *url, const char *target);
void redirects_forget(struct redirects *redirects, const char *url);
void redirects_free(struct redirects *redirects);

#endif
