/* The grammar of the parts of an image name, for calls that get the parts from elsewhere. */
#ifndef SLUICE_FETCHER_REFERENCE_INTERNAL_H
#define SLUICE_FETCHER_REFERENCE_INTERNAL_H

#include <stdbool.h>

/* host[:port] with a DNS name, an IPv4 address, or an IPv6 address in brackets. */
bool registry_name_is_valid(const char *registry);
/* Distribution specification, "Pulling manifests": <name>; 255 bytes at the most. */
bool repository_name_is_valid(const char *repository);

#endif
