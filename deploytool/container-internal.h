/* What the files of a container share. */
#ifndef SLUICE_DEPLOYTOOL_CONTAINER_INTERNAL_H
#define SLUICE_DEPLOYTOOL_CONTAINER_INTERNAL_H

#include <stddef.h>
#include <sys/types.h>

#include "deploytool/container.h"

#define CONTAINER_GROUPS_MAX 64u

struct container_user {
    uid_t uid;
    gid_t gid;
    gid_t groups[CONTAINER_GROUPS_MAX];
    size_t group_count;
};

/* container_user.c: who "user:group" is, by the tree's own /etc/passwd and /etc/group. */
int container_user_find(const char *root, const char *text, struct container_user *ret,
                        struct error **error);

/* container_config.c: the runtime specification's config.json. */
int container_config_write(const struct container_options *options, const char *path,
                           struct error **error);

#endif
