/*
 * What the link to the registry is like, as the ranges of a data path found it:
 * the shortest time to a first byte, and the fastest that bytes came, of one
 * range and of all together. All of it is forgotten slowly, so that a link that
 * gets worse is noticed.
 */
#include "fuse/link_speed-internal.h"

/* Shorter bodies come out of buffers, and say nothing of the link. */
#define TELLING_LENGTH (128u << 10)
/* How much of what was measured is left after each range that found less. */
#define FORGET(value) ((value) - (value) / 64)

/* Before anything was measured, and at the most. */
#define ROUND_TRIP_GUESS (256u << 10)
#define ROUND_TRIP_MAX   (1u << 20)

/* How long bytes of all ranges are counted before they say something. */
#define COUNTED_US     20000u
#define COUNTED_LENGTH (1u << 20)

/* A reader's range shares the link with what was asked for ahead: it may become so much later.
 * Where requests take longer than that, more has to be under way, or the link rests. */
#define AHEAD_MS          100u
#define AHEAD_ROUND_TRIPS 4u
#define AHEAD_GUESS       (2u << 20)
#define AHEAD_LEAST       (256u << 10)
#define AHEAD_MOST        (64u << 20)

/* One round trip is what the link holds, another is asked for meanwhile. With less the link's
 * speed is never seen, with this it is found by doubling. */
#define STREAM_ROUND_TRIPS 2u
/* What is under way at 1 Gbit/s and a round trip of 20 ms; and what memory has room for. */
#define STREAM_LEAST (5u << 19)
#define STREAM_MOST  (12u << 20)

static void keep_fastest(uint64_t *bytes_per_ms, uint64_t rate)
{
    uint64_t least = FORGET(*bytes_per_ms);
    *bytes_per_ms = rate > least ? rate : least;
}

void link_speed_note(struct link_speed *link, uint64_t waited_us, uint64_t moved_us, size_t length)
{
    uint64_t longest = link->wait_us + link->wait_us / 64 + 1;
    link->wait_us = link->wait_us == 0 || waited_us < longest ? waited_us : longest;
    if (length < TELLING_LENGTH) return;
    keep_fastest(&link->bytes_per_ms, (uint64_t)length * 1000 / (moved_us ? moved_us : 1));
}

/* The first bytes begin the time in which the next ones come. */
void link_speed_arrived(struct link_speed *link, size_t length, uint64_t now_us)
{
    if (link->since_us == 0) {
        link->since_us = now_us;
        return;
    }
    link->counted += length;
    uint64_t passed = now_us - link->since_us;
    if (passed == 0 || (passed < COUNTED_US && link->counted < COUNTED_LENGTH)) return;
    keep_fastest(&link->all_bytes_per_ms, link->counted * 1000 / passed);
    link->since_us = now_us;
    link->counted = 0;
}

void link_speed_idle(struct link_speed *link)
{
    link->since_us = link->counted = 0;
}

size_t link_speed_round_trip_bytes(const struct link_speed *link)
{
    if (link->bytes_per_ms == 0) return ROUND_TRIP_GUESS;
    uint64_t bytes = link->wait_us * link->bytes_per_ms / 1000;
    return bytes < ROUND_TRIP_MAX ? (size_t)bytes : ROUND_TRIP_MAX;
}

size_t link_speed_ahead_bytes(const struct link_speed *link)
{
    if (link->all_bytes_per_ms == 0) return AHEAD_GUESS;
    uint64_t ms = AHEAD_ROUND_TRIPS * link->wait_us / 1000;
    uint64_t bytes = link->all_bytes_per_ms * (ms > AHEAD_MS ? ms : AHEAD_MS);
    if (bytes < AHEAD_LEAST) return AHEAD_LEAST;
    return bytes < AHEAD_MOST ? (size_t)bytes : AHEAD_MOST;
}

size_t link_speed_stream_bytes(const struct link_speed *link)
{
    uint64_t bytes = STREAM_ROUND_TRIPS * link->wait_us * link->all_bytes_per_ms / 1000;
    if (bytes < STREAM_LEAST) return STREAM_LEAST;
    return bytes < STREAM_MOST ? (size_t)bytes : STREAM_MOST;
}
