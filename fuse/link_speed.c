/*
 * What the link to the registry is like, as the ranges of a data path found it:
 * the shortest time to a first byte, and the fastest that bytes came. Both are
 * forgotten slowly, so that a link that gets worse is noticed.
 */
#include "fuse/layer_device-internal.h"

/* Shorter bodies come out of buffers, and say nothing of the link. */
#define TELLING_LENGTH (128u << 10)
/* How much of what was measured is left after each range that found less. */
#define FORGET(value) ((value) - (value) / 64)

/* Before anything was measured, and at the most. */
#define ROUND_TRIP_GUESS (256u << 10)
#define ROUND_TRIP_MAX   (1u << 20)

void link_speed_note(struct link_speed *link, uint64_t waited_us, uint64_t moved_us, size_t length)
{
    uint64_t longest = link->wait_us + link->wait_us / 64 + 1;
    link->wait_us = link->wait_us == 0 || waited_us < longest ? waited_us : longest;
    if (length < TELLING_LENGTH) return;
    uint64_t rate = (uint64_t)length * 1000 / (moved_us ? moved_us : 1);
    uint64_t least = FORGET(link->bytes_per_ms);
    link->bytes_per_ms = rate > least ? rate : least;
}

size_t link_speed_round_trip_bytes(const struct link_speed *link)
{
    if (link->bytes_per_ms == 0) return ROUND_TRIP_GUESS;
    uint64_t bytes = link->wait_us * link->bytes_per_ms / 1000;
    return bytes < ROUND_TRIP_MAX ? (size_t)bytes : ROUND_TRIP_MAX;
}
