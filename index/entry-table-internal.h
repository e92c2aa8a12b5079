/* What the entry table and its codec share. */
#ifndef SLUICE_INDEX_ENTRY_TABLE_INTERNAL_H
#define SLUICE_INDEX_ENTRY_TABLE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "index/entry_table.h"

/* True for types that carry mode, owner, time and attributes of their own. */
static inline bool entry_type_has_attributes(enum entry_type type)
{
    return type != ENTRY_HARDLINK && type != ENTRY_WHITEOUT && type != ENTRY_OPAQUE;
}

static inline bool entry_type_is_device(enum entry_type type)
{
    return type == ENTRY_CHARACTER_DEVICE || type == ENTRY_BLOCK_DEVICE;
}

static inline bool entry_type_has_target(enum entry_type type)
{
    return type == ENTRY_SYMLINK || type == ENTRY_HARDLINK;
}

#endif
