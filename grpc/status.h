/*
 * What a gRPC call ends with: the numbers of
 * https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
 */
#ifndef SLUICE_GRPC_STATUS_H
#define SLUICE_GRPC_STATUS_H

#include "base/error.h"

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED,
    GRPC_UNKNOWN,
    GRPC_INVALID_ARGUMENT,
    GRPC_DEADLINE_EXCEEDED,
    GRPC_NOT_FOUND,
    GRPC_ALREADY_EXISTS,
    GRPC_PERMISSION_DENIED,
    GRPC_RESOURCE_EXHAUSTED,
    GRPC_FAILED_PRECONDITION,
    GRPC_ABORTED,
    GRPC_OUT_OF_RANGE,
    GRPC_UNIMPLEMENTED,
    GRPC_INTERNAL,
    GRPC_UNAVAILABLE,
    GRPC_DATA_LOSS,
    GRPC_UNAUTHENTICATED,
    GRPC_STATUS_COUNT
};

/* "OK", "NotFound": as metrics of other gRPC servers have it. */
const char *grpc_status_name(enum grpc_status status);

/* The status by which containerd's errdefs package knows such an error; what it has no word for,
 * as a failed system call, is GRPC_UNKNOWN. */
enum grpc_status grpc_status_of(const struct error *error);

#endif
