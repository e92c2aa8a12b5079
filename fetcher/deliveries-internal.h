/*
 * Which host gave which bytes lately: those who verify them find out later, and elsewhere, that
 * they were wrong. On the transfer thread only.
 */
#ifndef SLUICE_FETCHER_DELIVERIES_INTERNAL_H
#define SLUICE_FETCHER_DELIVERIES_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

#define DELIVERIES_KEPT 256

struct registry_host;

struct deliveries {
    struct delivery {
        struct registry_host *host; /* NULL: empty */
        struct digest digest;
        uint64_t offset, end;
    } kept[DELIVERIES_KEPT];
    size_t next;
};

/* What follows what the host gave before goes with that. */
void deliveries_note(struct deliveries *deliveries, struct registry_host *host,
                     const struct digest *digest, uint64_t offset, uint64_t length);
/* Sets aside whoever gave bytes of this range. */
void deliveries_distrust(struct deliveries *deliveries, const struct digest *digest,
                         uint64_t offset, uint64_t length, uint64_t aside_ms);

#endif
