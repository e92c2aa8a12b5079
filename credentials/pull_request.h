/*
 * What a PullImage request of CRI says, as far as credentials go
 * (https://github.com/kubernetes/cri-api, pkg/apis/runtime/v1/api.proto; v1alpha2 is the same).
 */
#ifndef SLUICE_CREDENTIALS_PULL_REQUEST_H
#define SLUICE_CREDENTIALS_PULL_REQUEST_H

#include "base/buffer.h"
#include "base/error.h"
#include "fetcher/credentials.h"

struct pull_request {
    char *image;                    /* as a person names it; owned */
    struct credentials credentials; /* for the image's registry */
};

/* 1: there are credentials, 0: there are none, or they are for another registry. -1, ERROR_INVALID:
 * it cannot be read; what is said of it quotes nothing. */
int pull_request_read(struct pull_request *ret, const struct buffer *message, struct error **error);
void pull_request_free(struct pull_request *request);

#endif
