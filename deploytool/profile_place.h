/*
 * Where a program is run for its profile: a directory that goes when this process is over, also
 * when it was killed. A process of its own waits for that, and clears away what is left, the
 * container too.
 */
#ifndef SLUICE_DEPLOYTOOL_PROFILE_PLACE_H
#define SLUICE_DEPLOYTOOL_PROFILE_PLACE_H

#include <sys/types.h>

#include "base/error.h"

struct profile_place {
    char *directory;
    char *cache;   /* not made */
    char *lower;   /* the image is mounted there */
    char *upper;   /* a tmpfs: what the program writes, and what the runtime needs */
    char *runtime; /* upper/runtime, not made: of container_options */
    char *root;    /* both, as an overlay */
    char *record;  /* what was read */
    /* Private: processes that may use the place have the writing end of a pipe. */
    int in_use;
    pid_t keeper;
};

/* Below TMPDIR or /var/tmp. This process has one thread and a mount namespace of its own, and
 * blocks container_end_signals(). A child that does not run another program keeps the place until
 * it ends. */
int profile_place_make(struct profile_place **ret, struct error **error);
/* The overlay and the tmpfs, in this mount namespace. */
void profile_place_unmount(const struct profile_place *place);
/* Waits until it is gone. */
void profile_place_remove(struct profile_place *place);

#endif
