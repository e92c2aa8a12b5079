/*
 * Whom devices are read for: an image that is mounted. Images share devices, so what is fetched is
 * a layer's, whichever image caused it, and what is read is counted here.
 */
#ifndef SLUICE_FUSE_DEVICE_READER_H
#define SLUICE_FUSE_DEVICE_READER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Zeros to begin with. Must be there until its last read is answered. */
struct device_reader {
    _Atomic uint64_t reads_hit, reads_missed; /* answered from the cache / had to be fetched */
    _Atomic uint64_t bytes_served;
    _Atomic uint64_t reads_waiting; /* now */
    _Atomic uint64_t errors;        /* reads that ended in one */
    _Atomic uint64_t failed_at;     /* clock_ms() of the newest of them; 0: none */
};

/* A read has ended with so many bytes, or a negative errno. `reader` may be NULL. */
void device_reader_count(struct device_reader *reader, bool missed, ssize_t result);

#endif
