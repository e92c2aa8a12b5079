/* What an image's config says of the program that runs in it (image specification 1.1, "config").
 */
#ifndef SLUICE_INDEX_IMAGE_PROCESS_H
#define SLUICE_INDEX_IMAGE_PROCESS_H

#include <stddef.h>

#include "base/error.h"

struct image_process {
    char **arguments; /* entry point and command, ends with NULL; may be empty */
    size_t argument_count;
    char **environment; /* "NAME=value", ends with NULL */
    size_t environment_count;
    char *directory; /* absolute; "/" where the config says none */
    char *user;      /* "user", "user:group" by name or number; "" is root */
};

/* Hostile bytes in. */
int image_process_parse(struct image_process *ret, const void *config, size_t length,
                        struct error **error);
void image_process_free(struct image_process *process);

#endif
