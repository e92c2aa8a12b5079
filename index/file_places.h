/* Which file of an image lies at a place of a layer's stream. */
#ifndef SLUICE_INDEX_FILE_PLACES_H
#define SLUICE_INDEX_FILE_PLACES_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "index/erofs_image.h"

struct file_place {
    uint32_t layer;  /* from 0 */
    uint64_t offset; /* in its stream */
    char *path;      /* relative to the root, owned; NULL: no file of the tree lies there */
};

/* Fills in the paths, which were NULL, in one walk over the tree of a validated image. A file's
 * header in the tar and the padding behind it count as its own; of several names of a file the
 * first that is met is given. */
int file_places_name(const struct erofs_image *image, struct file_place *places, size_t count,
                     struct error **error);

#endif
