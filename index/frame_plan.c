#include "index/frame_plan.h"

#include <stdlib.h>
#include <string.h>

#include "index/chunk_table.h"
#include "index/tar-internal.h"

/* Groups of small files: the least, what they tend to, the most. */
#define GROUP_LEAST (64u << 10)
#define GROUP_TREND (128u << 10)
#define GROUP_MOST  (512u << 10)

#define TAR_END (2 * TAR_BLOCK)

struct planning {
    struct frame_plan *plan;
    const struct layer_members *members;
    uint64_t open; /* bytes of the frame that has not ended */
};

void frame_plan_free(struct frame_plan *plan)
{
    free(plan->runs);
    free(plan->frame_ends);
    free(plan->member_starts);
    *plan = (struct frame_plan){ 0 };
}

/* ---- the stream ---- */

static int add_run(struct frame_plan *plan, uint64_t old, uint64_t length, struct error **error)
{
    if (length == 0) return 0;
    if (plan->run_count == plan->run_capacity) {
        size_t capacity = plan->run_capacity ? 2 * plan->run_capacity : 64;
        struct stream_run *runs = realloc(plan->runs, capacity * sizeof *runs);
        if (!runs) return error_set_memory(error);
        plan->runs = runs;
        plan->run_capacity = capacity;
    }
    plan->runs[plan->run_count++] = (struct stream_run){ plan->stream_length, old, length };
    plan->stream_length += length;
    return 0;
}

/* The position of the run that holds byte `at` of the new stream. */
static size_t find_run(const struct frame_plan *plan, uint64_t at)
{
    size_t low = 0, high = plan->run_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (plan->runs[middle].at <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

size_t frame_plan_gather(const struct frame_plan *plan, size_t frame, const uint8_t *old_stream,
                         uint8_t *ret)
{
    uint64_t at = frame > 0 ? plan->frame_ends[frame - 1] : 0;
    uint64_t end = plan->frame_ends[frame], start = at;
    for (size_t i = find_run(plan, at); at < end; i++) {
        const struct stream_run *run = &plan->runs[i];
        uint64_t skip = at - run->at;
        uint64_t length = run->length - skip < end - at ? run->length - skip : end - at;
        if (run->old == RUN_OF_ZEROS)
            memset(ret + (at - start), 0, length);
        else
            memcpy(ret + (at - start), old_stream + run->old + skip, length);
        at += length;
    }
    return (size_t)(end - start);
}

/* ---- the frames ---- */

static int end_frame(struct planning *planning, struct error **error)
{
    struct frame_plan *plan = planning->plan;
    if (planning->open == 0) return 0;
    if (plan->frame_count == plan->frame_capacity) {
        size_t capacity = plan->frame_capacity ? 2 * plan->frame_capacity : 64;
        uint64_t *ends = realloc(plan->frame_ends, capacity * sizeof *ends);
        if (!ends) return error_set_memory(error);
        plan->frame_ends = ends;
        plan->frame_capacity = capacity;
    }
    uint64_t start = plan->frame_count ? plan->frame_ends[plan->frame_count - 1] : 0;
    plan->frame_ends[plan->frame_count++] = start + planning->open;
    planning->open = 0;
    return 0;
}

/* Puts bytes into the open frame, which ends where it has become too long (headers may). */
static int take(struct planning *planning, uint64_t length, struct error **error)
{
    while (length) {
        uint64_t room = FRAME_LENGTH_MAX - planning->open;
        uint64_t taken = length < room ? length : room;
        planning->open += taken;
        length -= taken;
        if (planning->open == FRAME_LENGTH_MAX && end_frame(planning, error) < 0) return -1;
    }
    return 0;
}

static int take_large(struct planning *planning, uint64_t header, uint64_t data, uint64_t padding,
                      struct error **error)
{
    if (take(planning, header, error) < 0) return -1;
    /* A header between two large files is too little for a chunk. */
    if (planning->open >= CHUNK_MARKED_LEAST && end_frame(planning, error) < 0) return -1;
    for (; data >= 2 * FRAME_LENGTH; data -= FRAME_LENGTH)
        if (take(planning, FRAME_LENGTH, error) < 0 || end_frame(planning, error) < 0) return -1;
    if (take(planning, data + padding, error) < 0) return -1;
    return end_frame(planning, error);
}

/* FNV-1a, and what mixes its bits (the end of MurmurHash3's 64-bit form). */
static uint64_t hash_of(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3;
    hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccd;
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53;
    return hash ^ hash >> 33;
}

/* As likely as it is long, so that a group begins every GROUP_TREND bytes or so. */
static bool begins_group(const struct entry *entry, uint64_t length)
{
    if (!entry) return false;
    return (hash_of(entry->path) >> 32) * GROUP_TREND < length << 32;
}

static int take_small(struct planning *planning, const struct entry *entry, uint64_t length,
                      struct error **error)
{
    bool ends = planning->open + length > GROUP_MOST ||
                (planning->open >= GROUP_LEAST && begins_group(entry, length));
    if (ends && end_frame(planning, error) < 0) return -1;
    return take(planning, length, error);
}

static int take_member(struct planning *planning, size_t position, uint64_t end,
                       struct error **error)
{
    const struct layer_member *member = &planning->members->members[position];
    const struct tar_place *place = &member->place;
    uint64_t data = place->data_end - place->data;
    if (data >= FRAME_LENGTH)
        return take_large(planning, place->data - place->start, data, end - place->data_end, error);
    return take_small(planning, member->entry, end - place->start, error);
}

static int start_plan(struct frame_plan *plan, const struct layer_members *members,
                      struct error **error)
{
    *plan = (struct frame_plan){ 0 };
    plan->member_starts = calloc(members->count + 1, sizeof *plan->member_starts);
    return plan->member_starts ? 0 : error_set_memory(error);
}

int frame_plan_keep(struct frame_plan *ret, const struct layer_members *members,
                    struct error **error)
{
    struct planning planning = { ret, members, 0 };
    uint64_t end = 0;
    int result = start_plan(ret, members, error);
    if (result == 0) result = add_run(ret, 0, members->stream_length, error);
    for (size_t i = 0; result == 0 && i < members->count; i++) {
        end = layer_member_end(members, i);
        ret->member_starts[i] = members->members[i].place.start;
        result = take_member(&planning, i, end, error);
    }
    if (result == 0) result = take(&planning, members->stream_length - end, error);
    if (result == 0) result = end_frame(&planning, error);
    if (result < 0) frame_plan_free(ret);
    return result;
}

static uint64_t whole_blocks(uint64_t length)
{
    return (length + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
}

int frame_plan_reorder(struct frame_plan *ret, const struct layer_members *members,
                       const size_t *order, struct error **error)
{
    struct planning planning = { ret, members, 0 };
    int result = start_plan(ret, members, error);
    for (size_t i = 0; result == 0 && i < members->count; i++) {
        uint64_t start = members->members[order[i]].place.start;
        uint64_t end = layer_member_end(members, order[i]), whole = whole_blocks(end);
        ret->member_starts[order[i]] = ret->stream_length;
        result = add_run(ret, start, end - start, error);
        /* The last one of the old stream may lack its padding. */
        if (result == 0) result = add_run(ret, RUN_OF_ZEROS, whole - end, error);
        if (result == 0) result = take_member(&planning, order[i], whole, error);
    }
    if (result == 0) result = add_run(ret, RUN_OF_ZEROS, TAR_END, error);
    if (result == 0) result = take(&planning, TAR_END, error);
    if (result == 0) result = end_frame(&planning, error);
    if (result < 0) frame_plan_free(ret);
    return result;
}
