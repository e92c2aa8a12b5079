/* What a node's server is told, as JSON in questions (node/question.h). */
#ifndef SLUICE_NODE_NODE_PROTOCOL_INTERNAL_H
#define SLUICE_NODE_NODE_PROTOCOL_INTERNAL_H

#include <jansson.h>

#include "node/node_client.h"

/* The commands. Each object says which it is as "command". */
#define NODE_START  "start"  /* the first one: node_options, and "parent", who has started it */
#define NODE_OPEN   "open"   /* node_open_encode(); the answer: mounted_image_status(), and more */
#define NODE_STATUS "status" /* {"process": process_status(), "images": [{"id", ...}, ...]} */

/* Removes from the cache what has these "digests" and is not used: node_give_back(). The answer has
 * the "digests" that are left. */
#define NODE_GIVE_BACK "give-back"
/* In one such command. */
#define NODE_GIVE_BACK_MAX 100u

/* The server's sockets: where commands come from, and who is its broker. */
#define NODE_COMMANDS_SOCKET 3
#define NODE_BROKER_SOCKET   4

/* New objects, or NULL with the error set. */
json_t *node_start_encode(const struct node_options *options, struct error **error);
json_t *node_open_encode(const struct node_image_request *request, struct error **error);

/* Borrow from the object. The credentials are left out. */
int node_start_decode(const json_t *command, struct node_options *ret, struct error **error);
/* What the options of an image point to. */
struct node_open {
    uint64_t number; /* of the mount */
    struct mounted_image_options options;
    struct platform platform;
    struct digest index;
};
int node_open_decode(const json_t *command, struct node_open *ret, struct error **error);

/* Out of an answer to NODE_OPEN, which has "cache_keys" beside the status. */
int node_answer_decode(const char *text, struct node_image_answer *ret, struct error **error);

#endif
