/*
 * A range request outlives who asked: the registry client has no way to cancel
 * one, and closing a device must not wait for a network that is gone. So nothing
 * of the device is touched after the request was abandoned, but by an answer
 * that was on its way in at that moment: that one keeps the device busy until it
 * has seen that nobody wants it any more.
 */
#include <stdlib.h>
#include <string.h>

#include "fuse/layer_device-internal.h"

/* What is handed on at a time: the decoder works beside the transfer, and need not be woken for
 * each packet. */
#define PIECE_LENGTH (64u << 10)

enum request_state { REQUEST_ASKED, REQUEST_ANSWERING, REQUEST_ABANDONED };

struct range_request *range_request_new(struct layer_device *device, const struct digest *digest,
                                        uint64_t offset, size_t length,
                                        const struct range_receiver *receiver, void *owner,
                                        uint64_t wanted_until, struct actions *actions)
{
    uint64_t now = milliseconds_now();
    struct range_request *request = calloc(1, sizeof *request);
    if (!request) return NULL;
    atomic_init(&request->state, REQUEST_ASKED);
    request->receiver = receiver;
    request->owner = owner;
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

void range_request_abandon(struct range_request *request)
{
    int asked = REQUEST_ASKED;
    if (atomic_compare_exchange_strong(&request->state, &asked, REQUEST_ABANDONED)) return;
    request->dropped = true;
    device_busy(request->device); /* until the answer has seen it */
}

/* ---- answers, on the registry client's thread ---- */

/* Who was abandoned while the lock was waited for or held. */
static bool was_dropped(struct range_request *request)
{
    if (!request->dropped) return false;
    request->dropped = false;
    atomic_store(&request->state, REQUEST_ABANDONED);
    device_idle(request->device);
    return true;
}

/* Takes the lock; false: nobody wants the answer, and the lock is not held. */
static bool answer_begin(struct range_request *request, struct actions *actions)
{
    int asked = REQUEST_ASKED;
    if (!atomic_compare_exchange_strong(&request->state, &asked, REQUEST_ANSWERING)) return false;
    struct data_path *path = request->device->path;
    data_path_enter(path, actions);
    if (!was_dropped(request)) return true;
    data_path_leave(path, actions);
    return false;
}

static void answer_end(struct range_request *request, struct actions *actions)
{
    struct data_path *path = request->device->path;
    if (!was_dropped(request)) atomic_store(&request->state, REQUEST_ASKED);
    data_path_leave(path, actions);
}

static void hand_on(struct range_request *request)
{
    struct actions actions;
    struct body_piece *piece = request->filling;
    request->filling = NULL;
    if (!piece) return;
    if (answer_begin(request, &actions)) {
        request->receiver->piece(request->owner, piece, &actions);
        answer_end(request, &actions);
    } else {
        free(piece);
    }
}

static struct body_piece *piece_new(const struct range_request *request)
{
    size_t left = request->length - request->taken;
    size_t capacity = left < PIECE_LENGTH ? left : PIECE_LENGTH;
    struct body_piece *piece = malloc(sizeof *piece + capacity);
    if (piece) *piece = (struct body_piece){ .capacity = capacity };
    return piece;
}

static void request_part(void *context, const void *data, size_t length)
{
    struct range_request *request = context;
    const uint8_t *from = data;
    while (length > 0 && !request->failed) {
        if (atomic_load(&request->state) == REQUEST_ABANDONED) return;
        if (!request->filling) request->filling = piece_new(request);
        struct body_piece *piece = request->filling;
        if (!piece) {
            request->failed = true;
            return;
        }
        size_t count = piece->capacity - piece->length;
        if (count > length) count = length;
        memcpy(piece->data + piece->length, from, count);
        piece->length += count;
        request->taken += count;
        from += count;
        length -= count;
        if (piece->length == piece->capacity) hand_on(request);
    }
}

static void request_done(void *context, struct buffer *body, struct error *error)
{
    struct range_request *request = context;
    struct actions actions;
    hand_on(request); /* what came before an error is worth decoding */
    if (!error && request->failed) error_set_memory(&error);
    if (answer_begin(request, &actions)) {
        struct buffer taken = { 0 };
        if (body && !error) {
            taken = *body;
            *body = (struct buffer){ 0 };
        }
        request->receiver->done(request->owner, &taken, error, &actions);
        answer_end(request, &actions);
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
    if (request->receiver->piece)
        registry_stream_range(path->client, &repository, &digest, request->offset, request->length,
                              time, request_part, request_done, request);
    else
        registry_fetch_range(path->client, &repository, &digest, request->offset, request->length,
                             time, request_done, request);
    struct actions actions;
    data_path_enter(path, &actions);
    device_idle(device);
    data_path_leave(path, &actions);
}
