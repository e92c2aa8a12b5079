/*
 * A gRPC server on a unix socket: HTTP/2 by nghttp2 on one thread, handlers on a bounded pool of
 * others. Methods take one message and answer with one (unary) or several (server-streaming).
 *
 * What a client may cost is bounded: connections, calls, headers, messages, answers that it does
 * not read, and how long it may take to say what it wants. Compressed messages are refused.
 */
#ifndef SLUICE_GRPC_SERVER_H
#define SLUICE_GRPC_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "grpc/metadata.h"
#include "grpc/status.h"

struct grpc_server;
struct grpc_call;

struct grpc_method {
    const char *path; /* "/package.Service/Method"; NULL: every path that no other method has */
    /* Runs on a thread of the pool, several at once. Ends the call by grpc_call_end() and does
     * not touch it afterwards; one that it returns from without is ended as GRPC_INTERNAL. */
    void (*handle)(struct grpc_call *call, void *context);
    void *context;
};

enum {
    GRPC_MESSAGE_LIMIT = 4 << 20, /* bytes of a request's message, as other gRPC servers have it */
    GRPC_WORKER_LIMIT = 256,      /* handlers that run at once; further calls wait for them */
};

/* Listens on `socket_path`, mode 0600; its directory must exist. What a dead server left there is
 * replaced; one that still answers, and what is no socket, is an error. `methods` (and all that
 * they point to) must live as long as the server. */
int grpc_server_start(struct grpc_server **ret, const char *socket_path,
                      const struct grpc_method *methods, size_t count, struct error **error);
/* The same with a socket that listens at `socket_path` already, and becomes the server's:
 * `listener`, also closed after a failure. */
int grpc_server_start_on(struct grpc_server **ret, int listener, const char *socket_path,
                         const struct grpc_method *methods, size_t count, struct error **error);
/* The socket that listens, of which somebody may keep a copy, and leaving its name where it is: who
 * connects while there is no server waits for the next one that is started on it. */
int grpc_server_listener(const struct grpc_server *server);
void grpc_server_leave_socket(struct grpc_server *server);
/* Takes no further calls, lets those that run come to their end (grpc_call_cancelled() is true
 * meanwhile) and their answers be read for a second, and removes the socket. NULL is allowed. */
void grpc_server_stop(struct grpc_server *server);

/* What a call asks. Strings and bytes live until grpc_call_end(). */
const char *grpc_call_path(const struct grpc_call *call);
const struct buffer *grpc_call_request(const struct grpc_call *call);
const struct grpc_metadata *grpc_call_metadata(const struct grpc_call *call);
/* Until the client's deadline; UINT64_MAX without one, 0 when it has passed. */
uint64_t grpc_call_milliseconds_left(const struct grpc_call *call);
/* True when nobody waits for the answer any more, or the server is being stopped. */
bool grpc_call_cancelled(const struct grpc_call *call);

/* Sends a message. Waits while the client does not read what it was sent before. 0; or -1 when
 * the call has no client any more, the server would have to be stopped without this message, or
 * memory is short; then the call can only be ended. */
int grpc_call_send(struct grpc_call *call, const void *data, size_t length);
/* `message` is for people, and NULL where there is nothing to say. */
void grpc_call_end(struct grpc_call *call, enum grpc_status status, const char *message);
/* Ends it with the error's status and message, and frees the error. */
void grpc_call_fail(struct grpc_call *call, struct error *error);

#endif
