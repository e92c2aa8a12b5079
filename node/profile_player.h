/*
 * The profile of a mounted image, from the index to the data path: it is asked for as soon as the
 * index is known, and played once the tree is usable. A mount never waits for it, and does without
 * one that does not come or is no good.
 */
#ifndef SLUICE_NODE_PROFILE_PLAYER_H
#define SLUICE_NODE_PROFILE_PLAYER_H

#include <jansson.h>

#include "fuse/layer_device.h"
#include "node/node_image.h"

struct profile_player;

/* The client and the cache are borrowed. `limit`: bytes that are fetched ahead at the most, 0: half
 * of what the cache may hold. */
int profile_player_new(struct profile_player **ret, struct registry_client *client,
                       struct cache *cache, uint64_t limit, struct error **error);
/* The index is known: asks for its profile, if it has one. Does not wait for the network. */
void profile_player_prepare(struct profile_player *player, const struct node_image *node);
/* Everything is there to play it, on a thread of its own. */
void profile_player_play(struct profile_player *player, const struct node_image *node,
                         struct data_path *path, struct layer_device *const *devices);
/* For `sluice status`; a new reference. */
json_t *profile_player_status(struct profile_player *player);
/* Before the devices close. */
void profile_player_end(struct profile_player *player);
/* What is still on its way is dropped when it comes. NULL is fine. */
void profile_player_free(struct profile_player *player);

#endif
