/*
 * The small process beside a server that keeps the privileges, so that the server, which reads what
 * registries send, can give them up (base/confine.h). It knows from its start which directory
 * may be mounted on and how; all that it does is to mount there once, by either front door, to
 * unmount what it has mounted, and to find stored credentials, by docker's configuration and the
 * helpers it names. It ends with the server, also with one that was killed.
 */
#ifndef SLUICE_NODE_BROKER_H
#define SLUICE_NODE_BROKER_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"
#include "fetcher/credentials.h"
#include "fuse/mounter.h"

/* ---- the server's end ---- */

struct broker;

/* Starts the process; while this one has a single thread. */
int broker_start(struct broker **ret, const char *mountpoint, bool allow_suid, bool allow_devices,
                 struct error **error);
/* Ends the process, and waits for it. What is mounted stays. NULL is fine. */
void broker_free(struct broker *broker);

/* Valid as long as the broker. */
const struct mounter *broker_mounter(const struct broker *broker);
/* A registry_credentials (fetcher/registry.h); `context` is the broker. */
int broker_credentials(void *context, const struct credentials_question *question,
                       int cancel_descriptor, struct buffer *ret, struct error **error);

/* ---- its own end ---- */

/* The name by which main() knows that it is to be the broker. */
#define BROKER_NAME "sluice-broker"
int broker_main(int argc, char **argv);

#endif
