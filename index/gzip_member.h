/*
 * What surrounds the deflate data of a gzip member (RFC 1952): header and
 * trailer, pushed in pieces of any size. A layer may consist of many members.
 */
#ifndef SLUICE_INDEX_GZIP_MEMBER_H
#define SLUICE_INDEX_GZIP_MEMBER_H

#include <stddef.h>
#include <stdint.h>

/* CRC32 and length behind the deflate data. */
#define GZIP_TRAILER_LENGTH 8u

/* A zeroed struct expects a member's first byte. */
struct gzip_header {
    enum {
        GZIP_FIXED, /* the ten bytes that every header has */
        GZIP_EXTRA_LENGTH,
        GZIP_EXTRA,
        GZIP_NAME,
        GZIP_COMMENT,
        GZIP_CHECKSUM,
    } step;
    uint8_t flags;
    uint32_t position; /* within the step */
    uint32_t extra_length;
};

enum gzip_header_state { GZIP_HEADER_MORE, GZIP_HEADER_DONE, GZIP_HEADER_INVALID };

/* Takes bytes until the header ends; *ret_used says how many. */
enum gzip_header_state gzip_header_feed(struct gzip_header *header, const uint8_t *data,
                                        size_t length, size_t *ret_used);

#endif
