/*
 * The mark of a layer whose zstd frames were cut with care: a skippable frame (RFC 8878, 3.1.2)
 * that says that each frame behind it is worth a chunk of its own. docs/formats.md, "Converted
 * layers". It stands behind the first frame, because some unpackers know zstd by its first four
 * bytes and do not look for skippable frames there.
 */
#ifndef SLUICE_INDEX_FRAME_MARK_H
#define SLUICE_INDEX_FRAME_MARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_MARK_LENGTH 20u

extern const uint8_t frame_mark[FRAME_MARK_LENGTH];

/* Bytes of a frame that are looked at as they come. A zeroed struct expects a frame's first. */
struct frame_mark_reader {
    size_t count; /* that were the mark's */
    bool other;   /* it is none */
};

/* Takes the frame's next bytes. True once: with these, it was the mark. */
bool frame_mark_feed(struct frame_mark_reader *reader, const uint8_t *data, size_t length);

#endif
