/* User namespaces as containerd's labels tell them: "CONTAINER:HOST:SIZE", several joined by ",".
 */
#ifndef SLUICE_SNAPSHOTTER_ID_MAPPING_INTERNAL_H
#define SLUICE_SNAPSHOTTER_ID_MAPPING_INTERNAL_H

#include <sys/types.h>

#include "base/error.h"

/* What id 0 of the container is on the host. ERROR_INVALID. */
int id_mapping_root(const char *mapping, id_t *ret, struct error **error);
/* As the kernel takes it, for /proc/PID/uid_map (user_namespaces(7)): in fresh memory. NULL:
 * ERROR_INVALID. */
char *id_mapping_lines(const char *mapping, struct error **error);

#endif
