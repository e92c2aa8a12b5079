/*
 * Unary gRPC calls to a server on a unix socket, as containerd's: bytes in, bytes out. Calls run on
 * their caller's thread, several at once; connections are kept for the next ones and made anew when
 * the server was.
 */
#ifndef SLUICE_GRPC_CLIENT_H
#define SLUICE_GRPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "grpc/metadata.h"
#include "grpc/status.h"

struct grpc_client;

enum { GRPC_ANSWER_LIMIT = 16 << 20 }; /* bytes of an answer's message, as kubelet has it */

struct grpc_request {
    const char *path; /* "/package.Service/Method" */
    const void *message;
    size_t length;
    const struct grpc_metadata *metadata; /* or NULL */
    uint64_t timeout_ms;                  /* UINT64_MAX: as long as it takes */
    /* Asked some times a second; true gives the call up. Or NULL. */
    bool (*cancelled)(void *context);
    void *context;
};

struct grpc_answer {
    enum grpc_status status;
    char *text;            /* of the server, for people; NULL where it has none */
    struct buffer message; /* empty unless status is GRPC_OK */
};

/* Connects when the first call is made. */
int grpc_client_new(struct grpc_client **ret, const char *socket_path, struct error **error);
/* Not while calls run. NULL is allowed. */
void grpc_client_free(struct grpc_client *client);

/* 0: the server has answered, with whatever status. -1: it has not: ERROR_UNREACHABLE (no such
 * server, it died, or the time is over), ERROR_CANCELLED, or ERROR_INVALID (what came is no gRPC or
 * too much); the call may have been carried out all the same. */
int grpc_client_call(struct grpc_client *client, const struct grpc_request *request,
                     struct grpc_answer *ret, struct error **error);
void grpc_answer_free(struct grpc_answer *answer);

#endif
