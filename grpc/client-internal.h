/* One connection of a gRPC client: a call at a time, on the caller's thread. */
#ifndef SLUICE_GRPC_CLIENT_INTERNAL_H
#define SLUICE_GRPC_CLIENT_INTERNAL_H

#include "grpc/client.h"

struct grpc_line;

/* `deadline`: clock_ms(); waits so long for a server that has no room for another connection. */
int grpc_line_open(struct grpc_line **ret, const char *socket_path, uint64_t deadline,
                   struct error **error);
void grpc_line_close(struct grpc_line *line);
/* Whether another call can be made: neither side has ended it, nothing is left of the last one. */
bool grpc_line_is_usable(struct grpc_line *line);

/* As grpc_client_call(). `ret_refused`: the server says that it has done nothing for this call, so
 * that another connection may be tried. */
int grpc_line_call(struct grpc_line *line, const struct grpc_request *request, uint64_t deadline,
                   struct grpc_answer *ret, bool *ret_refused, struct error **error);

#endif
