/*
 * Text that a holder keeps with descriptors, also where it is longer than what the holder takes as
 * data (HOLDER_DATA_MAX): then it is in a file in memory, which is one more descriptor, the last.
 */
#ifndef SLUICE_NODE_HELD_TEXT_INTERNAL_H
#define SLUICE_NODE_HELD_TEXT_INTERNAL_H

#include "fuse/holder.h"

#define HELD_TEXT_MAX (4u << 20)

/* As holder_put(), of up to HOLDER_DESCRIPTORS_MAX - 1 descriptors; the text is not empty. */
int held_text_put(struct holder_client *holder, const char *name, const char *text,
                  const int *descriptors, size_t count, struct error **error);
/* The data of an entry becomes its text; its descriptors are then those that came with it. */
int held_text_take(struct holder_entry *entry, struct error **error);

#endif
