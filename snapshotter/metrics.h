/*
 * What sluiced tells monitoring, over HTTP: /metrics in Prometheus' text format, /healthz, which is
 * 200 while the daemon can do its work and 503 with the reason while it cannot. The figures are
 * those of its status (docs/man/sluice-status.1); docs/man/sluiced.8 has all names.
 */
#ifndef SLUICE_SNAPSHOTTER_METRICS_H
#define SLUICE_SNAPSHOTTER_METRICS_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

/* Called on the listener's thread. */
struct metrics_source {
    bool images; /* there are metrics of each lazy image */
    /* A new reference to the daemon's status; NULL: there is none now. */
    json_t *(*status)(void *context);
    /* In fresh memory: one line that says why the daemon cannot work. NULL: it can. */
    char *(*unhealthy)(void *context);
    void *context;
};

struct metrics_listener;

/* An address is "host:port", "[v6]:port" or ":port", the host a number. ERROR_INVALID otherwise. */
int metrics_address_check(const char *address, struct error **error);

/* An address that cannot be had now (another program has it) is logged, and tried again each
 * second: images can be served without. *ret is set before `source` is asked. */
int metrics_listener_start(struct metrics_listener **ret, const char *address,
                           const struct metrics_source *source, struct error **error);
/* Why nobody can be told anything now, in fresh memory; NULL: they can. NULL is fine. */
char *metrics_listener_problem(struct metrics_listener *listener);
/* NULL is fine. */
void metrics_listener_stop(struct metrics_listener *listener);

/* The status as Prometheus' text, appended to `ret`; -1: out of memory. `images`: as in struct
 * metrics_source. */
int metrics_format(const json_t *status, bool images, struct buffer *ret);

#endif
