#include "node/heartbeat-internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#define BEATS       10u /* within the limit */
#define BEAT_MAX_MS 1000u
/* A loop without end gets more than this part of a processor, however busy the machine is. */
#define SHARE_LEAST 50u

void heartbeat_begin(struct heartbeat *heartbeat, uint64_t limit_ms, uint64_t now)
{
    uint64_t beat = limit_ms / BEATS;
    *heartbeat = (struct heartbeat){ .limit_ms = limit_ms,
                                     .beat_ms = beat < BEAT_MAX_MS ? beat + !beat : BEAT_MAX_MS,
                                     .last = now };
}

bool heartbeat_lost(struct heartbeat *heartbeat, uint64_t now, bool answered, bool starved)
{
    uint64_t passed = now - heartbeat->last;
    bool late = passed >= 2 * heartbeat->beat_ms;
    heartbeat->last = now;
    if (answered)
        heartbeat->silent_ms = 0;
    else if (!late && !starved)
        heartbeat->silent_ms += passed;
    return heartbeat->silent_ms >= heartbeat->limit_ms;
}

/* ---- the processor ---- */

/* "TID (NAME) STATE ...", proc_pid_stat(5); the name may hold anything. */
static bool thread_wants_to_run(const char *directory, const char *thread)
{
    cleanup_buffer struct buffer text = { 0 };
    cleanup_free char *path = format_text("%s/%s/stat", directory, thread);
    if (!path || file_read(path, 4096, &text, NULL) < 0 || buffer_append_u8(&text, 0) < 0)
        return false;
    const char *end = strrchr((const char *)text.data, ')');
    return end && strncmp(end, ") R", 3) == 0;
}

static bool wants_to_run(pid_t process)
{
    cleanup_free char *directory = format_text("/proc/%d/task", (int)process);
    DIR *threads = directory ? opendir(directory) : NULL;
    const struct dirent *thread;
    bool found = false;
    while (threads && !found && (thread = readdir(threads)))
        found = thread->d_name[0] != '.' && thread_wants_to_run(directory, thread->d_name);
    if (threads) closedir(threads);
    return found;
}

/* Of all its threads. */
static bool time_it_ran(pid_t process, uint64_t *ret_us)
{
    clockid_t clock;
    struct timespec ran;
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &ran) < 0) return false;
    *ret_us = (uint64_t)ran.tv_sec * 1000000 + (uint64_t)ran.tv_nsec / 1000;
    return true;
}

bool process_is_starved(pid_t process, struct process_share *share)
{
    struct process_share before = *share, now = { .at_ms = clock_ms() };
    if (!time_it_ran(process, &now.ran_us)) return false;
    *share = now;
    if (before.at_ms == 0 || !wants_to_run(process)) return false;
    return (now.ran_us - before.ran_us) * SHARE_LEAST < (now.at_ms - before.at_ms) * 1000;
}
