#include "grpc/status.h"

enum grpc_status grpc_status_of(const struct error *error)
{
    switch (error_kind_of(error)) {
    case ERROR_INVALID:
        return GRPC_INVALID_ARGUMENT;
    case ERROR_UNSUPPORTED:
        return GRPC_UNIMPLEMENTED;
    case ERROR_NOT_FOUND:
        return GRPC_NOT_FOUND;
    case ERROR_EXISTS:
        return GRPC_ALREADY_EXISTS;
    case ERROR_PRECONDITION:
        return GRPC_FAILED_PRECONDITION;
    case ERROR_DENIED:
        return GRPC_PERMISSION_DENIED;
    case ERROR_UNREACHABLE:
        return GRPC_UNAVAILABLE;
    case ERROR_CANCELLED:
        return GRPC_CANCELLED;
    case ERROR_SYSTEM:
        break;
    }
    return GRPC_UNKNOWN;
}

const char *grpc_status_name(enum grpc_status status)
{
    static const char *const names[GRPC_STATUS_COUNT] = {
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    };
    return names[status];
}
