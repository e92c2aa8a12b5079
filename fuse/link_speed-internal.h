/* What the link to the registry is like. Under the data path's lock. */
#ifndef SLUICE_FUSE_LINK_SPEED_INTERNAL_H
#define SLUICE_FUSE_LINK_SPEED_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

struct link_speed {
    uint64_t wait_us, bytes_per_ms; /* of one range; 0: not known */
    uint64_t all_bytes_per_ms;      /* of all that are under way together; 0: not known */
    uint64_t since_us, counted;     /* bytes that came since; 0: none are counted */
};
/* A range's first byte came after `waited_us`, its `length` bytes within `moved_us`. */
void link_speed_note(struct link_speed *link, uint64_t waited_us, uint64_t moved_us, size_t length);
/* Some bytes of any range came; of all, none is under way any more. */
void link_speed_arrived(struct link_speed *link, size_t length, uint64_t now_us);
void link_speed_idle(struct link_speed *link);
/* What comes in the time that another request would wait for its first byte. */
size_t link_speed_round_trip_bytes(const struct link_speed *link);
/* What may be under way that nobody waits for. */
size_t link_speed_ahead_bytes(const struct link_speed *link);
/* What has to be under way for one who goes forward, so that the link does not rest. */
size_t link_speed_stream_bytes(const struct link_speed *link);

#endif
