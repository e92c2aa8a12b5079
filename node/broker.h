/*
 * The small process beside a server that keeps the privileges, so that the server, which reads what
 * registries send, can give them up (base/confine.h). It knows from its start which directory
 * may be mounted on and how; all that it does is to mount there once, by either front door, to
 * unmount what it has mounted, and to find stored credentials, by docker's configuration and the
 * helpers it names. It ends with the server, also with one that was killed.
 *
 * A server of many images asks who has started it instead (node/node_client.h), by the same
 * requests.
 */
#ifndef SLUICE_NODE_BROKER_H
#define SLUICE_NODE_BROKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "fetcher/credentials.h"
#include "fuse/mounter.h"

/* ---- the server's end ---- */

struct broker;

/* Starts the process; while this one has a single thread. */
int broker_start(struct broker **ret, const char *mountpoint, bool allow_suid, bool allow_devices,
                 struct error **error);
/* Whoever is at the other end of the socket, which is taken over, is the broker; `name` is for
 * errors, borrowed. NULL: out of memory. */
struct broker *broker_connect(int socket, const char *name);
/* Ends the process, if it was started, and waits for it. What is mounted stays. NULL is fine. */
void broker_free(struct broker *broker);

/* The broker as it mounts one tree. */
struct broker_mount {
    const struct broker *broker;
    uint64_t number;
    struct mounter mounter;
};
/* Number 0 is the only one of a broker that was started. Both are borrowed. */
void broker_mount_init(struct broker_mount *mount, const struct broker *broker, uint64_t number);
/* The tree is not served any more: a line to the broker, which does not answer. */
void broker_mount_gone(const struct broker_mount *mount);

/* A registry_credentials (fetcher/registry.h); `context` is the broker. */
int broker_credentials(void *context, const struct credentials_question *question,
                       int cancel_descriptor, struct buffer *ret, struct error **error);

/* ---- its own end ---- */

/* The name by which main() knows that it is to be the broker. */
#define BROKER_NAME "sluice-broker"
int broker_main(int argc, char **argv);

#endif
