/*
 * How a layer's stream is put together anew, and where its frames end.
 *
 * Frames end where files do, so that the same files make the same frames wherever they stand: a
 * file of FRAME_LENGTH or more begins one with its first byte of data (its header ends the frame
 * before) and is cut at multiples of FRAME_LENGTH within it. Smaller files are grouped; a name
 * decides whether it begins a group, and so a file that comes or goes changes the groups around it
 * and no other. docs/formats.md, "Converted layers".
 */
#ifndef SLUICE_INDEX_FRAME_PLAN_H
#define SLUICE_INDEX_FRAME_PLAN_H

#include "index/layer_members.h"

#define FRAME_LENGTH     (256u << 10)
#define FRAME_LENGTH_MAX (1u << 20)

/* Bytes of the old stream, which follow the run before in the new one. */
struct stream_run {
    uint64_t at; /* in the new stream */
    uint64_t old;
    uint64_t length;
};
#define RUN_OF_ZEROS UINT64_MAX /* as `old` */

/* A zeroed struct is empty. */
struct frame_plan {
    struct stream_run *runs;
    size_t run_count, run_capacity;
    uint64_t *frame_ends; /* in the new stream */
    size_t frame_count, frame_capacity;
    uint64_t *member_starts; /* in the new stream, for each member by its old position */
    uint64_t stream_length;
};

/* With the stream as it is. */
int frame_plan_keep(struct frame_plan *ret, const struct layer_members *members,
                    struct error **error);
/* With the members in the order of `order` (positions), and the end that tar wants. */
int frame_plan_reorder(struct frame_plan *ret, const struct layer_members *members,
                       const size_t *order, struct error **error);
void frame_plan_free(struct frame_plan *plan);

/* The bytes of frame `frame`, which are at most FRAME_LENGTH_MAX. */
size_t frame_plan_gather(const struct frame_plan *plan, size_t frame, const uint8_t *old_stream,
                         uint8_t *ret);

#endif
