/*
 * What the header of a zstd frame (RFC 8878, 3.1.1.1) says of the memory that
 * decoding takes, pushed in pieces of any size. libzstd does not tell.
 */
#ifndef SLUICE_INDEX_ZSTD_HEADER_H
#define SLUICE_INDEX_ZSTD_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZSTD_HEADER_MAX 18u

/* A zeroed struct expects a frame's first byte. */
struct zstd_header {
    uint8_t bytes[ZSTD_HEADER_MAX];
    size_t count;
    bool known;
};

/* Takes bytes of the frame, which may go on behind its header. True once: *ret_window is the length
 * of the window in bytes, 0 for a skippable frame. */
bool zstd_header_feed(struct zstd_header *header, const uint8_t *data, size_t length,
                      uint64_t *ret_window);

#endif
