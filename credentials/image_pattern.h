/*
 * The patterns by which kubelet's credential providers say which images they know credentials for
 * (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/): host, port
 * and path, with '*' within the parts of the host.
 */
#ifndef SLUICE_CREDENTIALS_IMAGE_PATTERN_H
#define SLUICE_CREDENTIALS_IMAGE_PATTERN_H

#include <stdbool.h>

/*
 * `image` is a registry and a repository: "registry.io:8080/team/app". It matches when the hosts
 * have equally many parts, each of which matches, the ports are the same, or missing in both, and
 * the path of the pattern is how the path of the image begins. A scheme in the pattern does not
 * count, nor does "/v1" or "/v2" at the start of its path.
 */
bool image_pattern_matches(const char *pattern, const char *image);

#endif
