/* What is to be told of a process that serves images, beside the images themselves. */
#ifndef SLUICE_NODE_PROCESS_STATUS_H
#define SLUICE_NODE_PROCESS_STATUS_H

#include <jansson.h>
#include <time.h>

#include "base/confine.h"
#include "node/node.h"

/* Fields of a status (docs/man/sluice-status.1): a new object, or NULL. */
json_t *process_status(const struct node *node, const struct confinement *confinement,
                       time_t started);

#endif
