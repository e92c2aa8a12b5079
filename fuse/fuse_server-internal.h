/* What the files of a FUSE connection's server share. */
#ifndef SLUICE_FUSE_FUSE_SERVER_INTERNAL_H
#define SLUICE_FUSE_FUSE_SERVER_INTERNAL_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "fuse/fuse_server.h"
#include "fuse/request_journal-internal.h"

#define FUSE_SERVER_THREADS_MAX 64u

struct server_thread {
    struct fuse_server *server;
    pthread_t thread;
    bool running; /* to be joined */
    atomic_bool ended;
    struct fuse_buf request;
    void *area;  /* of the journal, or NULL */
    int failure; /* errno with which it ended; 0: unmounted or stopped */
};

struct fuse_server {
    char *name;
    struct fuse_session *session;
    int connection; /* the session's */
    void *context;
    void (*init)(void *context, struct fuse_conn_info *connection);
    int wake; /* eventfd */
    bool initialized;
    uint64_t init_unique;            /* of the kernel's FUSE_INIT; 0: this server has not got it */
    struct request_journal *journal; /* NULL: the connection ends with its server */
    bool journalled;                 /* FUSE_INIT is over, which is not entered */
    uint64_t number;                 /* of the connection in the journal */
    bool resumed, made_up_init;      /* the latter: libfuse has not been given it yet */
    struct fuse_negotiated negotiated;
    unsigned thread_count;
    struct server_thread threads[FUSE_SERVER_THREADS_MAX];
};

/* fuse_connection.c: libfuse's way to the kernel. */
extern const struct fuse_custom_io fuse_connection_io;
/* The thread that asks libfuse for requests from now on; NULL: not this one any more. */
void fuse_connection_enter(struct server_thread *thread);
/* Gives a request to libfuse, or to the journal, which has an eye on those that were there when
 * servers died. `again`: as request_journal_enter(). */
void fuse_connection_process(struct fuse_server *server, const struct fuse_buf *request,
                             bool again);
/* Has what the server before left unanswered come again. */
int fuse_connection_resume(struct fuse_server *server, struct error **error);

#endif
