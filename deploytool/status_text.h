/* A status as text for people: of one mount's server, or of sluiced. */
#ifndef SLUICE_DEPLOYTOOL_STATUS_TEXT_H
#define SLUICE_DEPLOYTOOL_STATUS_TEXT_H

#include <jansson.h>

/* Prints it on standard output. Texts in it that could mislead a terminal are escaped in place. */
void status_print(json_t *status);

#endif
