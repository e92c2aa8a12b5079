/* What the files of the daemon share. */
#ifndef SLUICE_SNAPSHOTTER_DAEMON_INTERNAL_H
#define SLUICE_SNAPSHOTTER_DAEMON_INTERNAL_H

#include <time.h>

#include "credentials/cri_proxy.h"
#include "credentials/store.h"
#include "fuse/control.h"
#include "grpc/server.h"
#include "node/node_client.h"
#include "snapshotter/daemon.h"
#include "snapshotter/layer_store.h"
#include "snapshotter/lazy_images.h"
#include "snapshotter/metrics.h"
#include "snapshotter/snapshots_service.h"

/* In the order in which they start. */
struct daemon {
    const struct config *config;
    time_t started;
    int kept_socket; /* containerd's, of a daemon before this one, until it is listened on; or -1 */
    int lock;        /* of the root, or -1 */
    char *cache;     /* directory */
    struct credential_store *credentials;
    struct node_client *node;
    struct lazy_images *lazy;
    struct layer_store *layers;
    struct snapshotter *snapshotter;
    struct cri_proxy *cri;            /* or NULL */
    struct metrics_listener *metrics; /* or NULL */
    struct control_server *control;
    struct snapshots_service service;
    struct grpc_method methods[SNAPSHOTS_METHOD_COUNT];
    struct grpc_server *server;
};

#endif
