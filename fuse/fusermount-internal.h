/* The setuid helper of the fuse3 package, by which ordinary users mount. */
#ifndef SLUICE_FUSE_FUSERMOUNT_INTERNAL_H
#define SLUICE_FUSE_FUSERMOUNT_INTERNAL_H

#include <stdbool.h>

#include "base/error.h"

/* `options` as for its -o. Returns the connection's descriptor, or -1. */
int fusermount_attach(const char *mountpoint, const char *options, struct error **error);
/* `lazy`: at once, also while it is in use. */
int fusermount_detach(const char *mountpoint, bool lazy, struct error **error);

#endif
