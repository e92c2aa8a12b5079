/* Files without a name, which are gone when they are closed. */
#ifndef SLUICE_NODE_TEMPORARY_FILE_H
#define SLUICE_NODE_TEMPORARY_FILE_H

#include "base/error.h"

/* A descriptor to read and write, in $TMPDIR or /var/tmp; -1 with the error set. */
int temporary_file_open(struct error **error);

#endif
