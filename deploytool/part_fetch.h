/* A part of an index out of the registry, decoded while it comes. */
#ifndef SLUICE_DEPLOYTOOL_PART_FETCH_H
#define SLUICE_DEPLOYTOOL_PART_FETCH_H

#include "base/mapping.h"
#include "fetcher/registry.h"
#include "index/part_decoder.h"

/* Gives the content to `write` in pieces. 0: all of it was given, and its size and digest are those
 * that `part` states; what was written before a failure is worth nothing. */
int part_fetch(struct registry_client *client, const struct repository *repository,
               const struct index_part *part, part_write *write, void *context,
               struct error **error);

/* All of it in a file that has no name and goes with the mapping, in $TMPDIR or /var/tmp. */
int part_fetch_mapped(struct registry_client *client, const struct repository *repository,
                      const struct index_part *part, struct mapping **ret, struct error **error);

#endif
