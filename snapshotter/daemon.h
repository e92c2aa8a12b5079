/* sluiced as a whole: what it has running, and in which order that starts and ends. */
#ifndef SLUICE_SNAPSHOTTER_DAEMON_H
#define SLUICE_SNAPSHOTTER_DAEMON_H

#include "base/error.h"
#include "base/json.h"
#include "snapshotter/config.h"

struct daemon;

/* `config` is borrowed. containerd is answered when this returns. */
int daemon_start(struct daemon **ret, const struct config *config, struct error **error);
/* Ends what is under way; images stay mounted, for the next start. NULL is fine. */
void daemon_stop(struct daemon *daemon);

/* A new reference: docs/man/sluiced.8 says what is in it. NULL: out of memory. On any thread. */
json_t *daemon_status(struct daemon *daemon);
/* One line that says why it cannot do its work, in fresh memory; NULL: it can. On any thread. */
char *daemon_unhealthy(struct daemon *daemon);

#endif
