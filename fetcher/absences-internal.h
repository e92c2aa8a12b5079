/*
 * Which host said lately that it has not what it was asked for: it is asked last for that, and
 * first for all else. On the transfer thread only.
 */
#ifndef SLUICE_FETCHER_ABSENCES_INTERNAL_H
#define SLUICE_FETCHER_ABSENCES_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

#define ABSENCES_KEPT 64

struct registry;
struct registry_host;

struct absences {
    struct absence {
        const struct registry_host *host; /* NULL: empty */
        struct digest path;
        uint64_t until; /* clock_ms() */
    } kept[ABSENCES_KEPT];
    size_t next;
};

void absences_note(struct absences *absences, const struct registry_host *host, const char *path,
                   uint64_t milliseconds);
/* A bit for the position of each host of `registry` that lacks `path`. */
uint32_t absences_find(const struct absences *absences, const struct registry *registry,
                       const char *path);

#endif
