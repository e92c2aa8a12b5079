/* What the reader and the writer of profiles share. */
#ifndef SLUICE_INDEX_PROFILE_INTERNAL_H
#define SLUICE_INDEX_PROFILE_INTERNAL_H

#include <stdbool.h>

#include "index/profile.h"

#define PROFILE_MAGIC           "SLUICEPR" /* without its NUL */
#define PROFILE_VERSION         1u
#define PROFILE_PATH_LENGTH_MAX 4095u

/* Which chunks of each layer are in a profile already. */
struct profile_marks {
    uint8_t **bits; /* a layer's: a bit for each chunk */
    size_t layer_count;
};

int profile_marks_init(struct profile_marks *marks, const struct profile_layer *layers,
                       size_t layer_count, struct error **error);
void profile_marks_free(struct profile_marks *marks);
/* Marks the chunk; false: it was marked. */
bool profile_marks_set(struct profile_marks *marks, uint32_t layer, uint32_t chunk);

/* Differences modulo 2^32 as docs/formats.md has them modulo 2^64. */
static inline uint32_t profile_zigzag(uint32_t difference)
{
    return difference >> 31 ? 2 * -difference - 1 : 2 * difference;
}

static inline uint32_t profile_unzigzag(uint32_t value)
{
    return value & 1 ? -(value / 2) - 1 : value / 2;
}

#endif
