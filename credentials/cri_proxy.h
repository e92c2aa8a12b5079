/*
 * A socket for kubelet's --image-service-endpoint: CRI's image service, whose calls go on to
 * containerd as they are, whatever their version. What comes with a pull (imagePullSecrets) is
 * kept, because what is mounted goes on to need it.
 */
#ifndef SLUICE_CREDENTIALS_CRI_PROXY_H
#define SLUICE_CREDENTIALS_CRI_PROXY_H

#include "base/error.h"
#include "credentials/store.h"

struct cri_proxy;

/* `containerd` is the socket of its CRI. While nobody answers there, calls are UNAVAILABLE. The
 * store must outlive the proxy. */
int cri_proxy_start(struct cri_proxy **ret, const char *socket, const char *containerd,
                    struct credential_store *store, struct error **error);
/* NULL is fine. */
void cri_proxy_stop(struct cri_proxy *proxy);

#endif
