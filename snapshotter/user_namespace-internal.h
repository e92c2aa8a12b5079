/* User namespaces that say how owners are mapped, and that nobody lives in. */
#ifndef SLUICE_SNAPSHOTTER_USER_NAMESPACE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_USER_NAMESPACE_INTERNAL_H

#include "base/error.h"

/* A descriptor of a new one. `users` and `groups` are mappings of id_mapping-internal.h.
 * ERROR_INVALID where they are none, or none that the kernel takes. */
int user_namespace_open(const char *users, const char *groups, int *ret, struct error **error);

#endif
