/* containerd's snapshots service (containerd.services.snapshots.v1.Snapshots) over a snapshotter.
 */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOTS_SERVICE_H
#define SLUICE_SNAPSHOTTER_SNAPSHOTS_SERVICE_H

#include "snapshotter/grpc_server.h"
#include "snapshotter/snapshotter.h"

enum { SNAPSHOTS_METHOD_COUNT = 10 };

/* The methods for grpc_server_start(); the snapshotter must outlive the server. */
void snapshots_service_methods(struct snapshotter *snapshotter,
                               struct grpc_method ret[static SNAPSHOTS_METHOD_COUNT]);

#endif
