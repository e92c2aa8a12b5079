/*
 * A range request outlives who asked: the registry client has no way to cancel
 * one, and closing a device must not wait for a network that is gone. Whoever
 * takes the owner out of the request first, the answer or the one who gives up,
 * has the say; the answer always frees the request.
 */
#include <stdlib.h>

#include "fuse/layer_device-internal.h"

struct range_request *range_request_new(struct layer_device *device, const struct digest *digest,
                                        uint64_t offset, size_t length, range_arrived *arrived,
                                        void *owner, uint64_t wanted_until, struct actions *actions)
{
    uint64_t now = milliseconds_now();
    struct range_request *request = calloc(1, sizeof *request);
    if (!request) return NULL;
    atomic_init(&request->owner, owner);
    request->arrived = arrived;
    request->device = device;
    request->digest = *digest;
    request->offset = offset;
    request->length = length;
    /* The rest is for the last attempt, and for the reason to reach those who wait. */
    request->retry_until = wanted_until > now ? now + (wanted_until - now) * 9 / 10 : now;
    device_busy(device); /* until it is sent */
    STAILQ_INSERT_TAIL(&actions->requests, request, action);
    return request;
}

bool range_request_had_its_time(const struct range_request *request)
{
    return milliseconds_now() >= request->retry_until;
}

bool range_request_abandon(struct range_request *request)
{
    return atomic_exchange(&request->owner, NULL) != NULL;
}

static void request_done(void *context, struct buffer *body, struct error *error)
{
    struct range_request *request = context;
    void *owner = atomic_exchange(&request->owner, NULL);
    if (owner) {
        struct buffer taken = { 0 };
        if (body) {
            taken = *body;
            *body = (struct buffer){ 0 };
        }
        request->arrived(owner, body ? &taken : NULL, error);
    } else {
        error_free(error);
    }
    free(request);
}

void range_request_send(struct range_request *request)
{
    /* The answer may have freed the request before the call is over. */
    struct layer_device *device = request->device;
    struct data_path *path = device->path;
    struct repository repository = { device->registry, device->repository };
    struct digest digest = request->digest;
    uint64_t now = milliseconds_now();
    struct range_time time = {
        /* A little less than readers wait, so that they hear the reason and not only that it took
         * long. */
        .timeout_ms = path->read_timeout_ms - path->read_timeout_ms / 20,
        .retry_ms = request->retry_until > now ? (unsigned)(request->retry_until - now) : 0,
    };
    registry_fetch_range(path->client, &repository, &digest, request->offset, request->length, time,
                         request_done, request);
    struct actions actions;
    data_path_enter(path, &actions);
    device_idle(device);
    data_path_leave(path, &actions);
}
