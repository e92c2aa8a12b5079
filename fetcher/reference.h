/*
 * Image names as Docker writes them: [registry[:port]/]repository[:tag][@digest].
 * "python" means docker.io/library/python:latest; the first component is a
 * registry when it holds a '.' or ':' or is "localhost".
 */
#ifndef SLUICE_FETCHER_REFERENCE_H
#define SLUICE_FETCHER_REFERENCE_H

#include <stdbool.h>

#include "base/error.h"

struct image_reference {
    char *registry;   /* "docker.io", "localhost:5000", "[::1]:5000": as a person names it */
    char *repository; /* "library/python" */
    char *tag;        /* NULL when there is a digest and no tag; "latest" when neither */
    char *digest;     /* "sha256:..." or NULL; when set it decides and the tag is only decoration */
};

/* Checks every part against the distribution specification's grammar. ERROR_INVALID says which
 * part. */
int image_reference_parse(struct image_reference *ret, const char *text, struct error **error);
/* What a manifest is asked for by: the digest when there is one, else the tag. */
const char *image_reference_target(const struct image_reference *reference);
/* The canonical full name in fresh memory (with registry, and tag and digest as present); NULL: out
 * of memory. */
char *image_reference_format(const struct image_reference *reference);
void image_reference_free(struct image_reference *reference);
/* Distribution specification, "Pulling manifests": <reference> as a tag. */
bool tag_is_valid(const char *tag);

/* True for localhost, *.localhost, 127.0.0.0/8 and [::1], with or without a port:
 * these speak plain HTTP unless told otherwise. */
bool registry_is_loopback(const char *registry);

#endif
