/*
 * Threads that answer the requests of one FUSE connection. libfuse decodes and encodes; it neither
 * mounts nor unmounts, and it does not close the descriptor, because replies to parked reads may
 * still be written by other threads.
 *
 * A connection can outlive its server: somebody else has the descriptor too (holder.h), and the
 * next server goes on with it. Requests that the one before has not answered are answered then;
 * their readers notice nothing but the time it takes.
 */
#ifndef SLUICE_FUSE_FUSE_SERVER_H
#define SLUICE_FUSE_FUSE_SERVER_H

#include <fuse_lowlevel.h>

#include "base/error.h"
#include "fuse/fuse_negotiated.h"
#include "fuse/request_journal.h"

struct fuse_server;

/* For a connection that outlives its server. */
struct fuse_lasting {
    struct request_journal *journal; /* borrowed */
    uint64_t connection;             /* its number in the journal, with every server */
    /* Of fuse_server_negotiated() of the server before; NULL: the connection is new. */
    const struct fuse_negotiated *negotiated;
};

struct fuse_server_options {
    const char *name;                   /* for errors; copied */
    unsigned threads;                   /* 0: 4 */
    const struct fuse_lasting *lasting; /* or NULL; copied */
};

/* Takes the connection over, also when it fails. `context` is what fuse_server_context() gives in
 * `operations`, whose `init` gets it too and must call fuse_server_negotiate(). */
int fuse_server_new(struct fuse_server **ret, int connection,
                    const struct fuse_lowlevel_ops *operations, void *context,
                    const struct fuse_server_options *options, struct error **error);
void *fuse_server_context(fuse_req_t request);
/* What every file system here wants of the kernel, and `capabilities` (FUSE_CAP_*) besides, where
 * the kernel has them. */
void fuse_server_negotiate(struct fuse_server *server, struct fuse_conn_info *connection,
                           unsigned capabilities);
/* Answers the kernel's FUSE_INIT on this thread, then starts the others. A connection that lasts
 * has been negotiated before; what the server before left unanswered comes now. */
int fuse_server_start(struct fuse_server *server, struct error **error);
/* For the next server; borrowed. */
int fuse_server_connection(const struct fuse_server *server);
/* Once it is started; borrowed. */
const struct fuse_negotiated *fuse_server_negotiated(const struct fuse_server *server);
/* For poll(2): readable once fuse_server_wake() was called or a thread has ended by itself. */
int fuse_server_descriptor(const struct fuse_server *server);
/* Safe in a signal handler and on any thread. */
void fuse_server_wake(struct fuse_server *server);
/* Ends the threads. An error tells that one had ended because the connection failed; that it was
 * closed by the kernel is none. */
int fuse_server_stop(struct fuse_server *server, struct error **error);
/* Stops, and ends the connection (unless somebody else has it too): what the kernel asks from now
 * on is ENOTCONN. Every request must have been answered. NULL is fine. */
void fuse_server_free(struct fuse_server *server);

#endif
