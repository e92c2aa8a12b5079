/* What the files of a node's client share. */
#ifndef SLUICE_NODE_NODE_CLIENT_INTERNAL_H
#define SLUICE_NODE_NODE_CLIENT_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <sys/queue.h>

#include "fuse/holder.h"
#include "fuse/request_journal.h"
#include "node/credential_searches.h"
#include "node/mount_keeper.h"
#include "node/node_client.h"

enum image_state {
    IMAGE_OPENING,
    IMAGE_OPEN,
    IMAGE_LOST,   /* its server has died; it will be opened again */
    IMAGE_FAILED, /* it could not be opened (again), or somebody has unmounted it */
    IMAGE_LEFT,   /* closed, and perhaps still used */
};

struct client_image {
    LIST_ENTRY(client_image) link;
    struct node_client *client;
    unsigned references; /* the list's, and of each who works with it */
    bool is_listed;
    uint64_t id;         /* 0: nobody asks for it any more */
    uint64_t number;     /* by which the server knows it; another one each time it is opened */
    uint64_t connection; /* its number in the journal, and in the holder */
    bool is_held;
    bool has_gone; /* the server has ended it, and who opens it does not know of the opening yet */
    bool was_served; /* what is kept of the mount is what `answer` tells of */
    enum image_state state;
    char *reason;           /* of IMAGE_FAILED */
    unsigned asked;         /* the server that opens it, as `servers` counts; 0: none */
    unsigned crashes;       /* of servers that were opening it, since it was last open */
    unsigned failures;      /* of servers that were to go on with it */
    uint64_t refused_until; /* milliseconds; it has crashed too many. 0: it has not */
    json_t *command;
    char *mountpoint;          /* NULL: only to be loaded */
    char *answer;              /* of the last time that it was opened */
    struct digest *cache_keys; /* out of that, sorted */
    size_t cache_key_count;
    struct mount_keeper keeper;
};

/* node_client_give_back.c */
struct giving_back {
    pthread_t thread;
    bool runs;
    bool due; /* something has changed, so that what is left may go */
    struct digest *keys;
    size_t count;
};

struct node_client {
    struct node_client_options options;
    struct credential_searches searches;
    pthread_t supervisor, watchdog, restorer, keeper;
    bool supervisor_runs, watchdog_runs, restorer_runs, keeper_runs;
    int journal;                  /* memory of request_journal_make() */
    struct holder_client *holder; /* NULL: there is none */
    struct giving_back giving_back;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool cancelled; /* no image is opened any more; those that are open go on */
    int cancel;     /* eventfd, readable then */
    bool stopping;
    bool running;     /* a server can be asked */
    int commands;     /* the server's socket, or -1; whoever uses it without the lock has a copy */
    int requests;     /* likewise: what the server asks */
    unsigned servers; /* that were started so far */
    enum server_end last_end; /* of the server before */
    pid_t process;            /* of the server that runs */
    pid_t starting;           /* of one that does not serve yet; 0: there is none */
    bool hung;                /* it is being killed for that */
    unsigned hangs;           /* of servers so far */
    /* Of those that may be what crashes servers the one that is being opened, and how long the
     * others wait for that. */
    struct client_image *suspect;
    uint64_t turn_end;
    struct error *failure; /* why the last one did not come up, or NULL */
    uint64_t last_number;
    LIST_HEAD(, client_image) images;
};

/* ---- node_client_images.c; with the lock ---- */

struct client_image *client_image_of_id(struct node_client *client, uint64_t id);
struct client_image *client_image_of_number(struct node_client *client, uint64_t number);
/* NULL with the error set. It is in the list. */
struct client_image *client_image_new(struct node_client *client,
                                      const struct node_image_request *request,
                                      struct error **error);
void client_image_unreference(struct client_image *image);
/* Nobody asks for it any more; it goes once nobody works with it. Once or more often. */
void client_image_drop(struct client_image *image);
void client_image_set_state(struct node_client *client, struct client_image *image,
                            enum image_state state, const char *reason);
/* The server has ended it by itself, and says so perhaps before its answer was read. */
void client_image_gone(struct node_client *client, struct client_image *image);
/* What the server has said of the image it has opened. */
int client_image_keep_answer(struct client_image *image, const struct buffer *text,
                             struct error **error);
/* The server has died. */
void client_images_lost(struct node_client *client);
/* And how: those that it was opening may be why. */
void client_images_blame(struct node_client *client, enum server_end end);

/* ERROR_CANCELLED: the client has been cancelled. */
int client_cancelled(struct error **error);
/* Waits for a change; false once it is `deadline`. */
bool client_wait(struct node_client *client, uint64_t deadline);
/* False: the client is stopping. */
bool client_pause(struct node_client *client, unsigned milliseconds);

/* ---- node_client_open.c; with the lock ---- */

/* Opens it in whichever server runs, until `deadline` (milliseconds). Lets go of the lock while it
 * waits. The image is IMAGE_OPEN afterwards, or IMAGE_FAILED; or IMAGE_LEFT where nobody asks for
 * it any more. */
int client_image_open(struct node_client *client, struct client_image *image, uint64_t deadline,
                      struct error **error);
/* Whether it has crashed so many servers that it is not to be opened now; error is set then. */
bool client_image_is_refused(struct client_image *image, struct error **error);

/* ---- node_client_give_back.c ---- */

int client_give_back_start(struct node_client *client, struct error **error);
/* Once the client is stopping. */
void client_give_back_stop(struct node_client *client);
/* With the lock: a use of the cache may have ended. */
void client_give_back_again(struct node_client *client);

/* ---- node_resume.c ---- */

struct question_peer;
/* Whether another server can go on with what is mounted. */
bool client_image_can_resume(const struct client_image *image);
/* The command that tells a server to. NULL with the error set. */
json_t *client_image_resume_command(const struct client_image *image, struct error **error);
/* Has a server open the image, by client_image_resume_command() if it is to resume, until `cancel`
 * (or -1) is readable. *ret_connection (-1 before) is the descriptor that comes with the answer. */
int client_image_ask(const struct client_image *image, const struct question_peer *peer,
                     const char *text, bool resume, int cancel, int timeout_ms, struct buffer *ret,
                     int *ret_connection, struct error **error);

/* ---- node_held.c ---- */

/* Before the first server: takes what a process before this one has left. Where there is no holder,
 * the log says so; where one does not answer, that is an error (ERROR_UNREACHABLE). */
int client_held_start(struct node_client *client, struct error **error);
/* What is held stays. */
void client_held_stop(struct node_client *client);
/* With the lock. Has the image outlive this process; or not any more. */
void client_image_hold(struct node_client *client, struct client_image *image);
void client_image_release(struct node_client *client, struct client_image *image);

/* ---- node_held_image.c ---- */

/* In fresh memory; NULL: out of memory. */
char *client_image_describe(const struct client_image *image);
/* Fills an image that is empty from what client_image_describe() has said (`root`), and with the
 * descriptors of `entry`. */
int client_image_take(struct client_image *image, const json_t *root, struct holder_entry *entry,
                      struct error **error);

/* ---- node_supervisor.c ---- */

/* A thread's function, with the client: starts a server, answers what it asks, and starts the next
 * one. */
void *node_supervise(void *argument);

/* ---- node_watchdog.c ---- */

/* A thread's function, with the client: kills servers that hang. */
void *node_watch(void *argument);

#endif
