/* Reading YAML (https://yaml.org/spec/1.2.2/), as configuration files have it, over libyaml. */
#ifndef SLUICE_BASE_YAML_H
#define SLUICE_BASE_YAML_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

/*
 * The one document of the text, which is a mapping, as a new reference: mappings are objects,
 * sequences are arrays, and every scalar is a string, whether it was quoted or not ("12h", "true",
 * "8080"). JSON is YAML and is read the same way, but its values keep their types. Anchors and
 * aliases, tags, keys that come twice, and what is deeper than 32 are refused: ERROR_INVALID, with
 * the line.
 */
json_t *yaml_read_object(const void *data, size_t length, const char *what, struct error **error);

#endif
