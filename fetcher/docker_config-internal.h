/*
 * Docker's client configuration, config.json: the parts about credentials
 * (https://docs.docker.com/reference/cli/docker/login/).
 */
#ifndef SLUICE_FETCHER_DOCKER_CONFIG_INTERNAL_H
#define SLUICE_FETCHER_DOCKER_CONFIG_INTERNAL_H

#include "base/error.h"
#include "fetcher/credentials.h"

struct docker_config;

/* $DOCKER_CONFIG/config.json or $HOME/.docker/config.json in fresh memory; NULL: neither variable
 * is set, or out of memory. */
char *docker_config_path(void);

/* What podman, buildah and skopeo keep in the same form: $REGISTRY_AUTH_FILE, else auth.json of the
 * session (containers-auth.json(5)), in fresh memory; NULL: out of memory. */
char *podman_config_path(void);

/* At most 1 MiB of JSON. ERROR_NOT_FOUND where there is no such file. Errors quote nothing of the
 * content. */
struct docker_config *docker_config_read(const char *path, struct error **error);
void docker_config_free(struct docker_config *config);

/* The name of the helper for `registry` (credHelpers before credsStore), borrowed; NULL: none. */
const char *docker_config_helper(const struct docker_config *config, const char *registry);

/* What the file itself holds for `registry`. 1: found, 0: nothing, -1: malformed. */
int docker_config_credentials(const struct docker_config *config, const char *registry,
                              struct credentials *ret, struct error **error);

#endif
