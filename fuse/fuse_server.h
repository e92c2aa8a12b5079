/*
 * Threads that answer the requests of one FUSE connection. libfuse decodes and encodes; it neither
 * mounts nor unmounts, and it does not close the descriptor, because replies to parked reads may
 * still be written by other threads.
 */
#ifndef SLUICE_FUSE_FUSE_SERVER_H
#define SLUICE_FUSE_FUSE_SERVER_H

#include <fuse_lowlevel.h>

#include "base/error.h"

struct fuse_server;

/* Takes the connection over, also when it fails. `context` is what fuse_req_userdata() gives in
 * `operations`, whose `init` must call fuse_server_negotiate(). `name` is for errors; copied.
 * `threads`: 0: 4. */
int fuse_server_new(struct fuse_server **ret, int connection,
                    const struct fuse_lowlevel_ops *operations, void *context, const char *name,
                    unsigned threads, struct error **error);
/* What every file system here wants of the kernel, and `capabilities` (FUSE_CAP_*) besides, where
 * the kernel has them. */
void fuse_server_negotiate(struct fuse_server *server, struct fuse_conn_info *connection,
                           unsigned capabilities);
/* Answers the kernel's FUSE_INIT on this thread, then starts the others. */
int fuse_server_start(struct fuse_server *server, struct error **error);
/* For poll(2): readable once fuse_server_wake() was called or a thread has ended by itself. */
int fuse_server_descriptor(const struct fuse_server *server);
/* Safe in a signal handler and on any thread. */
void fuse_server_wake(struct fuse_server *server);
/* Ends the threads. An error tells that one had ended because the connection failed; that it was
 * closed by the kernel is none. */
int fuse_server_stop(struct fuse_server *server, struct error **error);
/* Stops, and ends the connection: what the kernel asks from now on is ENOTCONN. Every request must
 * have been answered. NULL is fine. */
void fuse_server_free(struct fuse_server *server);

#endif
