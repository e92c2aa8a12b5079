/* A part of an index out of the registry, decoded while it comes. */
#ifndef SLUICE_NODE_PART_FETCH_H
#define SLUICE_NODE_PART_FETCH_H

#include "base/mapping.h"
#include "fetcher/registry.h"
#include "index/part_decoder.h"

/* Who takes the content. */
struct part_sink {
    part_write *write;
    /* Forgets what was written: it comes again from the start. */
    int (*restart)(void *context, struct error **error);
    void *context;
    /* Where the content can be read once it is written, or NULL; restart() may change it. What is
     * verified are the bytes there. */
    const void *stored;
};

/* 0: all of the content was written, and its size and digest are those that `part` states; what was
 * written before a failure is worth nothing. Bytes that are wrong are asked for again, from another
 * host where there is one. */
int part_fetch(struct registry_client *client, const struct repository *repository,
               const struct index_part *part, const struct part_sink *sink, struct error **error);

/* All of it in memory, for parts whose size something else bounds. `ret` may hold something, which
 * goes. */
int part_fetch_buffer(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct buffer *ret, struct error **error);
/* All of it in a file that has no name and goes with the mapping, in $TMPDIR or /var/tmp. */
int part_fetch_mapped(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct mapping **ret, struct error **error);

#endif
