/* One range request that can be abandoned. */
#ifndef SLUICE_FUSE_RANGE_REQUEST_INTERNAL_H
#define SLUICE_FUSE_RANGE_REQUEST_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

struct actions;
struct data_path;
struct layer_device;

#define RANGE_LENGTH_MAX (4u << 20)

/* Bytes that are not what the index says are asked for this often: a proxy or one of several hosts
 * may have damaged them, but what is wrong each time stays so. */
#define DAMAGED_ATTEMPTS 3u

/* Some bytes of a body. */
struct body_piece {
    STAILQ_ENTRY(body_piece) link;
    size_t length, capacity;
    uint8_t data[];
};
STAILQ_HEAD(body_pieces, body_piece);

/* Who gets an answer. Under the lock, on the registry client's thread; either may abandon the
 * request. What they are given is theirs. */
struct range_receiver {
    /* The next bytes. NULL: the whole body goes to `done`. */
    void (*piece)(void *owner, struct body_piece *piece, struct actions *actions);
    /* The last call. All bytes were there (in `body`, unless they came in pieces), or `error`. */
    void (*done)(void *owner, struct buffer *body, struct error *error, struct actions *actions);
};

struct range_request {
    const struct range_receiver *receiver;
    void *owner;
    struct layer_device *device;
    struct digest digest;
    uint64_t offset;
    size_t length;
    uint64_t retry_until; /* clock_ms() */
    unsigned batch; /* those of one number are asked for by one request, if possible; 0: alone */
    _Atomic int state;
    bool dropped;               /* abandoned while an answer waited for the lock; under the lock */
    struct body_piece *filling; /* the client's thread's: what was not handed on yet */
    size_t taken;
    const struct layer_place *place; /* that was asked last, or is to be asked */
    unsigned places_tried;
    bool failed;               /* out of memory */
    uint64_t sent_at, came_at; /* microseconds; of the first byte, 0: none */
    STAILQ_ENTRY(range_request) action;
};

/* The request is sent when the lock is let go. `wanted_until`: when the last of those who wait for
 * it gives up (0: nobody waits); until shortly before, it is tried again. NULL: out of memory. */
struct range_request *range_request_new(struct layer_device *device, const struct digest *digest,
                                        uint64_t offset, size_t length,
                                        const struct range_receiver *receiver, void *owner,
                                        uint64_t wanted_until, struct actions *actions);
/* For one that failed: it was tried for as long as was agreed on when it was made. False: trying
 * longer would not have helped. */
bool range_request_had_its_time(const struct range_request *request);
/* Under the lock: the receiver will not be called any more. */
void range_request_abandon(struct range_request *request);
STAILQ_HEAD(range_requests, range_request);
/* Takes them. Without the lock. */
void range_requests_send(struct range_requests *requests);
/* How many ranges one request may ask for, as far as is known; 1 where a host gives one only. */
unsigned range_batch_max(const struct data_path *path);

#endif
