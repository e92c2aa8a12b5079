#include "credentials/cri_proxy.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "credentials/pull_request.h"
#include "grpc/client.h"
#include "grpc/server.h"

#define METHODS 3

struct cri_proxy {
    struct credential_store *store;
    struct grpc_client *containerd;
    char *address; /* containerd's socket */
    struct grpc_method methods[METHODS];
    struct grpc_server *server;
};

static bool is_cancelled(void *context)
{
    return grpc_call_cancelled(context);
}

static int ask(const struct cri_proxy *proxy, struct grpc_call *call, struct grpc_answer *ret,
               struct error **error)
{
    const struct buffer *message = grpc_call_request(call);
    const struct grpc_request request = { .path = grpc_call_path(call),
                                          .message = message->data,
                                          .length = message->length,
                                          .metadata = grpc_call_metadata(call),
                                          .timeout_ms = grpc_call_milliseconds_left(call),
                                          .cancelled = is_cancelled,
                                          .context = call };
    *ret = (struct grpc_answer){ 0 };
    if (grpc_client_call(proxy->containerd, &request, ret, error) == 0) return 0;
    return error_prefix(error, "containerd at '%s'", proxy->address);
}

/* Ends the call with what containerd has answered. Frees it, or the error. */
static void answer(struct grpc_call *call, struct grpc_answer *answered, struct error *error)
{
    if (error) {
        grpc_call_fail(call, error);
    } else {
        if (answered->status == GRPC_OK)
            grpc_call_send(call, answered->message.data, answered->message.length);
        grpc_call_end(call, answered->status, answered->text);
    }
    grpc_answer_free(answered);
}

static void pass_on(struct grpc_call *call, void *context)
{
    struct grpc_answer answered;
    struct error *error = NULL;
    ask(context, call, &answered, &error);
    answer(call, &answered, error);
}

/* Before containerd is asked, because the image may be mounted before the pull has ended. */
static bool keep(const struct cri_proxy *proxy, const struct pull_request *pull, bool *ret_new)
{
    cleanup_error struct error *error = NULL;
    int kept = credential_store_put(proxy->store, pull->image, &pull->credentials, &error);
    if (kept < 0)
        log_warning("credentials of the pull of '%s': %s", pull->image, error_message(error));
    *ret_new = kept > 0;
    return kept >= 0;
}

static void pull_with_credentials(const struct cri_proxy *proxy, struct grpc_call *call,
                                  const struct pull_request *pull)
{
    struct grpc_answer answered;
    struct error *error = NULL;
    bool is_new;
    bool kept = keep(proxy, pull, &is_new);
    bool pulled = ask(proxy, call, &answered, &error) == 0 && answered.status == GRPC_OK;
    if (kept && pulled)
        keep(proxy, pull, &is_new); /* a pull with the same that failed may have dropped them */
    else if (kept && is_new)
        credential_store_drop(proxy->store, pull->image, &pull->credentials);
    answer(call, &answered, error);
}

static void pull_image(struct grpc_call *call, void *context)
{
    const struct cri_proxy *proxy = context;
    cleanup_error struct error *error = NULL;
    struct pull_request pull;
    int found = pull_request_read(&pull, grpc_call_request(call), &error);
    if (found < 0) log_warning("credentials of a pull: %s", error_message(error));
    if (found <= 0) {
        pass_on(call, context);
        return;
    }
    pull_with_credentials(proxy, call, &pull);
    pull_request_free(&pull);
}

static int start(struct cri_proxy *proxy, const char *socket, struct error **error)
{
    struct grpc_method methods[METHODS] = {
        { "/runtime.v1.ImageService/PullImage", pull_image, proxy },
        { "/runtime.v1alpha2.ImageService/PullImage", pull_image, proxy },
        { NULL, pass_on, proxy },
    };
    memcpy(proxy->methods, methods, sizeof methods);
    if (!proxy->address) return error_set_memory(error);
    if (grpc_client_new(&proxy->containerd, proxy->address, error) < 0) return -1;
    return grpc_server_start(&proxy->server, socket, proxy->methods, METHODS, error);
}

int cri_proxy_start(struct cri_proxy **ret, const char *socket, const char *containerd,
                    struct credential_store *store, struct error **error)
{
    struct cri_proxy *proxy = calloc(1, sizeof *proxy);
    if (!proxy) return error_set_memory(error);
    proxy->store = store;
    proxy->address = strdup(containerd);
    if (start(proxy, socket, error) < 0) {
        cri_proxy_stop(proxy);
        return error_prefix(error, "image service for kubelet");
    }
    *ret = proxy;
    return 0;
}

void cri_proxy_stop(struct cri_proxy *proxy)
{
    if (!proxy) return;
    grpc_server_stop(proxy->server);
    grpc_client_free(proxy->containerd);
    free(proxy->address);
    free(proxy);
}
