/* A disk that takes no more, by a limit of this process: no file may grow. */
#ifndef SLUICE_TESTS_FULL_DISK_H
#define SLUICE_TESTS_FULL_DISK_H

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

/* Files that are shorter than `longest` grow up to that. Returns what ends it. */
static inline struct rlimit full_disk_begin(rlim_t longest)
{
    struct rlimit before, full;
    signal(SIGXFSZ, SIG_IGN);
    if (getrlimit(RLIMIT_FSIZE, &before) < 0) abort();
    full = before;
    full.rlim_cur = longest;
    if (setrlimit(RLIMIT_FSIZE, &full) < 0) abort();
    return before;
}

static inline void full_disk_end(struct rlimit before)
{
    if (setrlimit(RLIMIT_FSIZE, &before) < 0) abort();
}

#endif
