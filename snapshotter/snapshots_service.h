/* containerd's snapshots service (containerd.services.snapshots.v1.Snapshots) over a snapshotter.
 */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOTS_SERVICE_H
#define SLUICE_SNAPSHOTTER_SNAPSHOTS_SERVICE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdint.h>

#include "grpc/server.h"
#include "snapshotter/snapshotter.h"

enum { SNAPSHOTS_METHOD_COUNT = 10 };

/* Calls of a method that ended with one status. */
struct snapshots_calls {
    atomic_uint_fast64_t count, microseconds;
};

struct snapshots_service {
    struct snapshotter *snapshotter;
    /* Zeros at first, and not for the caller. */
    struct snapshots_calls calls[SNAPSHOTS_METHOD_COUNT][GRPC_STATUS_COUNT];
};

/* The methods for grpc_server_start(); the service and its snapshotter must outlive the server. */
void snapshots_service_methods(struct snapshots_service *service,
                               struct grpc_method ret[static SNAPSHOTS_METHOD_COUNT]);
/* What was called since: [{"method", "code", "count", "seconds"}, ...]; NULL: out of memory. On any
 * thread. */
json_t *snapshots_service_calls(struct snapshots_service *service);

#endif
