/*
 * Credentials that wait to be needed: on pages of their own, which are in no core dump and, where
 * that is allowed, on no swap, and which are overwritten in the end.
 */
#ifndef SLUICE_CREDENTIALS_KEPT_SECRET_H
#define SLUICE_CREDENTIALS_KEPT_SECRET_H

#include "base/digest.h"
#include "base/error.h"
#include "fetcher/credentials.h"

struct kept_secret;

/* A copy of `credentials`, which must be known. ERROR_INVALID: they are longer than 256 KiB. */
struct kept_secret *kept_secret_new(const struct credentials *credentials, struct error **error);
/* NULL is fine. */
void kept_secret_free(struct kept_secret *secret);

/* credentials_fingerprint() of it; valid as long as the secret. */
const struct digest *kept_secret_fingerprint(const struct kept_secret *secret);
/* A copy in `ret`, to be freed. */
int kept_secret_read(const struct kept_secret *secret, struct credentials *ret,
                     struct error **error);

#endif
