/* The profile of an index: the part as it comes from the registry, and what it is checked by. */
#ifndef SLUICE_NODE_PROFILE_PART_H
#define SLUICE_NODE_PROFILE_PART_H

#include "fetcher/registry.h"
#include "index/artifact.h"
#include "index/chunk_table.h"
#include "index/profile.h"

/* The layers of an index as profiles know them, one for each table, in fresh memory; NULL: out of
 * memory. */
struct profile_layer *profile_layers_of(const struct index_artifact *artifact,
                                        struct chunk_table *const *tables);

/* Fetches and verifies the part's content; a few MiB at the most. */
int profile_part_fetch(struct registry_client *client, const struct repository *repository,
                       const struct index_part *part, struct buffer *ret, struct error **error);
/* The same out of the blob's bytes, for who has fetched them. */
int profile_part_unpack(const struct index_part *part, const struct buffer *blob,
                        struct buffer *ret, struct error **error);

#endif
