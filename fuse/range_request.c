/*
 * A range request outlives who asked: the registry client has no way to cancel
 * one, and closing a device must not wait for a network that is gone. So nothing
 * of the device is touched after the request was abandoned, but by an answer
 * that was on its way in at that moment: that one keeps the device busy until it
 * has seen that nobody wants it any more.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fuse/layer_device-internal.h"
#include "fuse/layer_places-internal.h"
#include "fuse/link_speed-internal.h"
#include "fuse/range_request-internal.h"

/* What is handed on at a time: the decoder works beside the transfer, and need not be woken for
 * each packet. */
#define PIECE_LENGTH (64u << 10)

/* Enough that requests are few, and not so many that what comes last waits for long. */
#define RANGES_IN_BATCH 32u
_Static_assert(RANGES_IN_BATCH <= REGISTRY_RANGES_MAX, "one request asks for a batch");

enum request_state { REQUEST_ASKED, REQUEST_ANSWERING, REQUEST_ABANDONED };

struct range_request *range_request_new(struct layer_device *device, const struct digest *digest,
                                        uint64_t offset, size_t length,
                                        const struct range_receiver *receiver, void *owner,
                                        uint64_t wanted_until, struct actions *actions)
{
    uint64_t now = clock_ms();
    struct range_request *request = calloc(1, sizeof *request);
    if (!request) return NULL;
    atomic_init(&request->state, REQUEST_ASKED);
    request->receiver = receiver;
    request->owner = owner;
    request->device = device;
    request->digest = *digest;
    request->offset = offset;
    request->length = length;
    request->place = device_place(device);
    /* The rest is for the last attempt, and for the reason to reach those who wait. */
    request->retry_until = wanted_until > now ? now + (wanted_until - now) * 9 / 10 : now;
    device_busy(device); /* until it is sent */
    STAILQ_INSERT_TAIL(&actions->requests, request, action);
    return request;
}

bool range_request_had_its_time(const struct range_request *request)
{
    return clock_ms() >= request->retry_until;
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
    if (!request->came_at) request->came_at = clock_us();
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

/* Who has refused, or has lost the layer, is not the only one who had it. False: all were asked. */
static bool ask_elsewhere(struct range_request *request, const struct error *error,
                          struct actions *actions)
{
    enum error_kind kind = error ? error_kind_of(error) : ERROR_SYSTEM;
    if ((kind != ERROR_DENIED && kind != ERROR_NOT_FOUND) || request->taken > 0) return false;
    const struct layer_place *place = layer_place_get(request->device, ++request->places_tried);
    if (!place) return false;
    request->place = place;
    request->batch = 0;
    device_busy(request->device); /* until it is sent */
    STAILQ_INSERT_TAIL(&actions->requests, request, action);
    return true;
}

static void hand_over(struct range_request *request, struct buffer *body, struct error *error,
                      struct actions *actions)
{
    struct buffer taken = { 0 };
    if (!error && request->came_at)
        link_speed_note(&request->device->path->link, request->came_at - request->sent_at,
                        clock_us() - request->came_at, request->length);
    if (!error && request->places_tried > 0) layer_place_prefer(request->device, request->place);
    if (body && !error) {
        taken = *body;
        *body = (struct buffer){ 0 };
    }
    request->receiver->done(request->owner, &taken, error, actions);
}

static void request_done(void *context, struct buffer *body, struct error *error)
{
    struct range_request *request = context;
    struct actions actions;
    hand_on(request); /* what came before an error is worth decoding */
    if (!error && request->failed) error_set_memory(&error);
    if (!answer_begin(request, &actions)) {
        error_free(error);
        free(request);
        return;
    }
    if (ask_elsewhere(request, error, &actions)) {
        error_free(error);
        answer_end(request, &actions);
        return;
    }
    hand_over(request, body, error, &actions);
    answer_end(request, &actions);
    free(request);
}

/* ---- sending ---- */

unsigned range_batch_max(const struct data_path *path)
{
    return registry_takes_ranges(path->client) ? RANGES_IN_BATCH : 1;
}

static struct range_time time_of(const struct range_request *request)
{
    unsigned read_timeout_ms = request->device->path->read_timeout_ms;
    uint64_t now = clock_ms();
    return (struct range_time){
        /* A little less than readers wait, so that they hear the reason and not only that it took
         * long. */
        .timeout_ms = read_timeout_ms - read_timeout_ms / 20,
        .retry_ms = request->retry_until > now ? (unsigned)(request->retry_until - now) : 0,
    };
}

static struct registry_range range_of(struct range_request *request)
{
    request->sent_at = clock_us();
    return (struct registry_range){ .offset = request->offset,
                                    .length = request->length,
                                    .part = request->receiver->piece ? request_part : NULL,
                                    .done = request_done,
                                    .context = request };
}

/* Takes the first, and those behind it that are of its batch. */
static size_t take_batch(struct range_requests *requests, struct registry_range *ret)
{
    const struct range_request *first = STAILQ_FIRST(requests);
    struct range_request *next;
    size_t count = 0;
    while ((next = STAILQ_FIRST(requests))) {
        if (count > 0 && (!first->batch || next->batch != first->batch)) break;
        if (count == RANGES_IN_BATCH) break;
        STAILQ_REMOVE_HEAD(requests, action);
        ret[count++] = range_of(next);
    }
    return count;
}

static void fetch_one(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, const struct registry_range *range,
                      struct range_time time)
{
    if (range->part)
        registry_stream_range(client, repository, digest, range->offset, range->length, time,
                              range->part, range->done, range->context);
    else
        registry_fetch_range(client, repository, digest, range->offset, range->length, time,
                             range->done, range->context);
}

void range_requests_send(struct range_requests *requests)
{
    const struct range_request *first;
    struct registry_range ranges[RANGES_IN_BATCH];
    while ((first = STAILQ_FIRST(requests))) {
        /* The answers may have freed the requests before the call is over. */
        struct layer_device *device = first->device;
        struct data_path *path = device->path;
        struct repository repository = { first->place->registry, first->place->repository };
        struct digest digest = first->digest;
        struct range_time time = time_of(first);
        size_t count = take_batch(requests, ranges);
        if (count == 1)
            fetch_one(path->client, &repository, &digest, ranges, time);
        else
            registry_fetch_ranges(path->client, &repository, &digest, ranges, count, time);
        struct actions actions;
        data_path_enter(path, &actions);
        for (size_t i = 0; i < count; i++)
            device_idle(device);
        data_path_leave(path, &actions);
    }
}
