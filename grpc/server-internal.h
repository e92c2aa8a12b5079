/*
 * The parts of a gRPC server. One thread owns the connections and their nghttp2 sessions; a call is
 * what it shares with the workers.
 *
 *   server.c      the socket, the thread that waits for it and for its connections
 *   connection.c  bytes of a connection, and how long it may take
 *   request.c     HTTP/2: headers and messages become calls
 *   answer.c      what calls say goes out
 *   call.c        what handlers see
 *   workers.c     the threads that handlers run on
 */
#ifndef SLUICE_GRPC_SERVER_INTERNAL_H
#define SLUICE_GRPC_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "grpc/server.h"
#include "grpc/wire-internal.h"

struct nghttp2_session;

enum {
    CONNECTION_LIMIT = 128,
    STREAM_LIMIT = GRPC_WORKER_LIMIT, /* calls of a connection at once: none waits for its own */
    REQUEST_MEMORY_LIMIT = 128 << 20, /* of messages that have come, all calls together */
    ANSWER_MEMORY_LIMIT = 128 << 20,  /* of messages that have not gone out */
    WAITING_CALL_LIMIT = 1024,        /* that no worker has begun */
    OUTPUT_LIMIT = 256 << 10,         /* of a call: a sender waits while more is unread */
    REQUEST_SECONDS = 30,             /* until a connection or a call has said all that it asks */
    UNREAD_SECONDS = 60,              /* a client that reads nothing for so long is gone */
};

struct grpc_connection;

/* Who may touch what: the connection's thread until the call is given to the workers, then as it
 * says. Freed with the second of its two references, the stream's and the handler's. */
struct grpc_call {
    struct grpc_server *server;
    atomic_int references;

    /* Set before the workers have it; then read only. */
    const struct grpc_method *method;
    char *path;
    struct grpc_metadata metadata;
    struct grpc_message_reader request;
    uint64_t deadline; /* clock_ms(); UINT64_MAX: none */

    /* The connection's thread only. */
    struct grpc_connection *connection;
    LIST_ENTRY(grpc_call) of_connection;
    int32_t stream;
    uint64_t opened, moved; /* clock_ms(): its begin; when an answer last went on */
    size_t counted;         /* in server->request_memory */
    bool post, grpc, bad;   /* method and content type are as they must be; a header is not */
    bool encoded;           /* grpc-encoding names a compression */
    bool requested;         /* given to the workers, or answered without them */
    bool answered;          /* response headers are submitted */
    bool reset;             /* RST_STREAM is submitted */

    /* Under server->lock. */
    bool cancelled, ended, is_ready;
    enum grpc_status status;
    char *text;           /* of the status; owned; NULL: none */
    struct buffer output; /* messages for the client; before `output_sent` they went out */
    size_t output_sent;
    STAILQ_ENTRY(grpc_call) ready;   /* has something for the connection's thread */
    STAILQ_ENTRY(grpc_call) waiting; /* for a worker */
};

/* For the connections' thread only. */
struct grpc_connection {
    struct grpc_server *server;
    LIST_ENTRY(grpc_connection) of_server;
    LIST_HEAD(, grpc_call) calls;
    struct nghttp2_session *session;
    int descriptor;
    const uint8_t *unsent; /* of the session, until it is asked for more */
    size_t unsent_length;
    uint64_t opened, moved; /* clock_ms(): its begin; when bytes last went out */
    uint32_t watched;       /* events */
    bool greeted, ended;
    bool called; /* it was of use */
};

/* Calls that wait for a worker, and the workers. */
struct grpc_workers {
    STAILQ_HEAD(, grpc_call) waiting;
    size_t waiting_count;
    pthread_cond_t work;
    pthread_t threads[GRPC_WORKER_LIMIT];
    unsigned count, idle;
    bool stopping;
};

struct grpc_server {
    const struct grpc_method *methods;
    size_t method_count;
    char *path;
    dev_t device;             /* of the socket's name, which somebody else may have replaced */
    ino_t inode;              /* 0: it is not removed */
    int listener, poll, wake; /* socket, epoll, eventfd */
    pthread_t thread;
    atomic_size_t request_memory, answer_memory;

    /* The connections' thread only. */
    LIST_HEAD(, grpc_connection) connections;
    unsigned connection_count;
    uint64_t accept_again; /* clock_ms(); 0: the listener is watched */

    pthread_mutex_t lock;
    pthread_cond_t output_sent; /* some call's output became shorter, or the call has no client */
    STAILQ_HEAD(, grpc_call) ready;
    struct grpc_workers workers;
    bool draining; /* no further calls */
    bool closing;  /* the workers are gone: write what is left, and end */
};

/* server.c */
void grpc_server_wake(struct grpc_server *server);

/* connection.c: the connections' thread only. Takes over the descriptor. */
int grpc_connection_open(struct grpc_server *server, int descriptor);
void grpc_connection_close(struct grpc_connection *connection);
/* There is something to read. */
void grpc_connection_read(struct grpc_connection *connection);
/* Tells the client that no further calls are taken. */
void grpc_connection_drain(struct grpc_connection *connection);
/* Writes what can be written, and gives up what takes too long; false: it has ended and is to be
 * closed. `next` is lowered to the time at which to look again. */
bool grpc_connection_serve(struct grpc_connection *connection, uint64_t now, uint64_t *next);
/* What its calls' answers take. */
size_t grpc_connection_memory(const struct grpc_connection *connection);
/* Something of an answer has not gone out yet. */
bool grpc_connection_is_busy(const struct grpc_connection *connection);

/* request.c: the connections' thread only. */
int grpc_session_make(struct grpc_connection *connection);

/* answer.c: the connections' thread only. The call has output, or has ended. */
void grpc_call_answer(struct grpc_call *call);
/* Ends a call that no worker has. */
void grpc_call_refuse(struct grpc_call *call, enum grpc_status status, const char *text);
/* Somebody speaks HTTP, but no gRPC. */
void grpc_call_refuse_http(struct grpc_call *call, const char status[static 3]);
/* The stream ends without a word; `code` is HTTP/2's. */
void grpc_call_reset(struct grpc_call *call, uint32_t code);

/* call.c */
struct grpc_call *grpc_call_new(struct grpc_connection *connection, struct grpc_server *server,
                                int32_t stream);
void grpc_call_release(struct grpc_call *call);
/* The stream has ended; the connections' thread only. */
void grpc_call_forget(struct grpc_call *call);

/* workers.c */
void grpc_workers_begin(struct grpc_workers *workers);
/* Takes over a reference, unless the answer is -1: too many wait. */
int grpc_workers_add(struct grpc_server *server, struct grpc_call *call);
/* Waits for handlers that run, and ends the calls that none has begun. */
void grpc_workers_end(struct grpc_server *server);

#endif
