/* Lengths of time as Kubernetes and Go write them: "12h", "1h30m", "1.5s". */
#ifndef SLUICE_BASE_DURATION_H
#define SLUICE_BASE_DURATION_H

#include <stdint.h>

#include "base/error.h"

#define DURATION_MAX_MS (UINT64_C(366) * 24 * 3600 * 1000)

/* In milliseconds; what is longer than DURATION_MAX_MS is cut to that. ERROR_INVALID: it is none,
 * or less than nothing. */
int duration_parse(const char *text, uint64_t *ret, struct error **error);

#endif
