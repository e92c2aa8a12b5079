/* What a node's server is told, as JSON in questions (node/question.h). */
#ifndef SLUICE_NODE_NODE_PROTOCOL_INTERNAL_H
#define SLUICE_NODE_NODE_PROTOCOL_INTERNAL_H

#include <jansson.h>

#include "node/node_client.h"

/* The commands. Each object says which it is as "command". */
/* The first one: node_options, "log_level" and "log_format" of who has started it, "parent", who
 * has started it, and "before", how the server before this one has ended (enum server_end). */
#define NODE_START "start"
/* node_open_encode(), "id" (of the mount), "connection" (its number in the journal); and for a tree
 * that another server has mounted "resumed", node_resumed_encode(), whose descriptors follow on the
 * socket for the answer, each with a byte. The answer is mounted_image_status(), and more:
 * "negotiated", fuse_negotiated_format(), with the connection's descriptor, or null. */
#define NODE_OPEN   "open"
#define NODE_STATUS "status" /* {"process": process_status(), "images": [{"id", ...}, ...]} */
#define NODE_PING   "ping"   /* says that it is alive, once its data path lets it */

/* Removes from the cache what has these "digests" and is not used: node_give_back(). The answer has
 * the "digests" that are left. */
#define NODE_GIVE_BACK "give-back"
/* In one such command. */
#define NODE_GIVE_BACK_MAX 100u

/* The server's sockets: where commands come from, and who is its broker. */
#define NODE_COMMANDS_SOCKET 3
#define NODE_BROKER_SOCKET   4
/* Beside them: the memory of the journal of requests. */
#define NODE_JOURNAL 5

/* New objects, or NULL with the error set. */
json_t *node_start_encode(const struct node_options *options, struct error **error);
json_t *node_open_encode(const struct node_image_request *request, struct error **error);

json_t *node_resumed_encode(const struct front_resumed *resumed);
/* Borrows from the object. */
int node_resumed_decode(const json_t *object, struct front_resumed *ret, struct error **error);

/* Borrow from the object. The credentials are left out; the log is set as it is where the object
 * was made. */
int node_start_decode(const json_t *command, struct node_options *ret, struct error **error);
/* What the options of an image point to. */
struct node_open {
    uint64_t number; /* of the mount */
    struct mounted_image_options options;
    struct platform platform;
    struct digest index;
    uint64_t connection; /* its number in the journal */
    bool is_resumed;
    struct front_resumed resumed; /* its descriptors: 0 where one follows, else -1 */
};
int node_open_decode(const json_t *command, struct node_open *ret, struct error **error);

/* Out of an answer to NODE_OPEN, which has "cache_keys" beside the status. */
int node_answer_decode(const char *text, struct node_image_answer *ret, struct error **error);

#endif
