/*
 * Whether a process hangs: one that is asked again and again, and has not answered for so long that
 * it will not. Time in which nobody could have answered does not count: a machine that is suspended
 * (the clock stands then) or so busy that who asks comes late himself, and a process that is given
 * no processor.
 */
#ifndef SLUICE_NODE_HEARTBEAT_INTERNAL_H
#define SLUICE_NODE_HEARTBEAT_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct heartbeat {
    uint64_t limit_ms;
    uint64_t beat_ms; /* how often heartbeat_lost() is to be called */
    uint64_t last;    /* when it was */
    uint64_t silent_ms;
};

/* Times are those of clock_ms(). */
void heartbeat_begin(struct heartbeat *heartbeat, uint64_t limit_ms, uint64_t now);
/* True: it hangs. `answered` since the last call; `starved`: could not have. */
bool heartbeat_lost(struct heartbeat *heartbeat, uint64_t now, bool answered, bool starved);

/* What a process was given of the processor, for process_is_starved(). */
struct process_share {
    uint64_t at_ms, ran_us;
};
/* Whether a process wants to run and was hardly let since the last call with this `share`, which is
 * { 0 } at the first. False also where that cannot be found out. */
bool process_is_starved(pid_t process, struct process_share *share);

#endif
