/* A small blob, waited for only as long as somebody wants it. */
#ifndef SLUICE_NODE_BLOB_CALL_H
#define SLUICE_NODE_BLOB_CALL_H

#include <stdatomic.h>

#include "fetcher/registry.h"

/* All `length` bytes of a blob in `ret`, verified. ERROR_CANCELLED soon after `cancel` is set; the
 * client ends what is still under way then. */
int blob_call(struct registry_client *client, const struct repository *repository,
              const struct digest *digest, size_t length, const atomic_bool *cancel,
              struct buffer *ret, struct error **error);

#endif
