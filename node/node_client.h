/*
 * A node's images, served by a process that is started here and started anew whenever it dies
 * (node/node_server.h). It holds no privileges: what is to be mounted and which credentials there
 * are is asked of this process. Functions may be called on any thread.
 */
#ifndef SLUICE_NODE_NODE_CLIENT_H
#define SLUICE_NODE_NODE_CLIENT_H

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "index/chunk_table.h"
#include "node/mounted_image.h"
#include "node/node.h"

struct node_client;

struct node_client_options {
    const char *program;      /* whose main() calls node_server_main(); NULL: this one */
    struct node_options node; /* credentials NULL: credentials_search() */
    unsigned watchdog_ms; /* a server that has not answered for so long hangs, and is followed by
                             the next one; 0: however long */
    const char *holder;   /* the holder's socket; it is started where there is none. NULL: what
                             is mounted does not outlive this process */
    const char *holder_program; /* NULL: sluice-holder in the directory of this program */
};

/* Starts the first server, and waits until it can serve. What the options point to is borrowed
 * until the client is stopped. */
int node_client_start(struct node_client **ret, const struct node_client_options *options,
                      struct error **error);
/* Ends the server. Nobody calls the others any more. What is mounted stays; who reads waits for the
 * next client with this holder, or gets errors where there is none. NULL is fine. */
void node_client_stop(struct node_client *client);

struct node_image_request {
    uint64_t id; /* the caller's number for the mount; not 0 */
    bool allow_suid, allow_devices;
    /* Without a mount point the image is only loaded, so that the answer can be given; nothing of
     * it stays open. The record and the mounter are not for the caller. */
    struct mounted_image_options image;
};

struct node_layer_answer {
    struct digest blob, stream;
    uint64_t stream_length;
    /* 0 where an earlier version has left the answer. */
    uint64_t blob_length;
    enum layer_kind kind;
};

/* An index has some hundred layers at the most, with three for each. */
#define NODE_CACHE_KEYS_MAX 4096u

struct node_image_answer {
    struct digest manifest, index;
    enum index_trust trust;
    struct node_layer_answer *layers; /* those that are shown, lowest first */
    size_t layer_count;
    struct digest *cache_keys; /* what the cache keeps for the image: image_cache_keys() */
    size_t cache_key_count;
    uint64_t entries, image_bytes;
    char *front, *front_reason; /* "" where nothing was mounted */
};
void node_image_answer_free(struct node_image_answer *answer);

/*
 * Sees to it that the image is mounted and served, and says what it is. One that is open already is
 * not opened again, whatever else is asked for; one whose server has died is waited for. An image
 * that is open stays open: it is mounted again by the next server. ERROR_UNREACHABLE: not within
 * `timeout_ms`.
 */
int node_client_open(struct node_client *client, const struct node_image_request *request,
                     unsigned timeout_ms, struct node_image_answer *ret, struct error **error);
/* Whether an image of this number is open, or is taken over from a process before this one. */
bool node_client_has(struct node_client *client, uint64_t id);
/* Unmounts. Who still uses the tree is served on until the kernel says that nobody does. The number
 * may be used again. */
void node_client_close(struct node_client *client, uint64_t id);

/* Ends all waiting for images to be opened: that fails as ERROR_CANCELLED from now on. What is open
 * is served until node_client_stop(). */
void node_client_cancel(struct node_client *client);

/* Nobody but images that are open needs what has these cache keys: the rest is removed from the
 * cache, each once no process uses it. Does not wait. What cannot be noted, or is still used when
 * this process ends, goes by eviction. */
void node_client_give_back(struct node_client *client, const struct digest *keys, size_t count);

/* Appends a JSON object: "server" (process_status(), or null and "server_reason"),
 * "servers_started", "servers_hung", "images": [{"id", "state", "reason", mounted_image_status()},
 * ...]. */
int node_client_status(struct node_client *client, struct buffer *ret, struct error **error);

#endif
