/* The clock that deadlines are kept by. */
#ifndef SLUICE_FETCHER_CLOCK_INTERNAL_H
#define SLUICE_FETCHER_CLOCK_INTERNAL_H

#include <stdint.h>
#include <time.h>

/* Milliseconds since some fixed moment; never goes back. */
static inline uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

#endif
