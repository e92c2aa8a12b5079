/*
 * Fed: which members a profile names, then a tar stream. Its headers' checksums
 * are put right first, so that what is behind them is reached.
 *
 * Holds: the frames of a layer that can be read, kept or reordered, are its
 * bytes without a gap; and a reordered stream has the same entries, with the
 * same data, each where the plan says.
 */
#include "index/frame_plan.h"
#include "index/member_order.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tar_blocks.h"

static void gather_all(const struct frame_plan *plan, const uint8_t *stream, struct buffer *ret)
{
    for (size_t i = 0; i < plan->frame_count; i++) {
        EXPECT(buffer_reserve(ret, FRAME_LENGTH_MAX) == 0);
        size_t length = frame_plan_gather(plan, i, stream, ret->data + ret->length);
        EXPECT(length > 0 && length <= FRAME_LENGTH_MAX);
        ret->length += length;
        EXPECT(ret->length == plan->frame_ends[i]);
    }
    EXPECT(ret->length == plan->stream_length);
}

static void check_kept(const struct layer_members *members, const uint8_t *stream)
{
    struct error *error = NULL;
    struct frame_plan plan;
    struct buffer made = { 0 };
    EXPECT_SUCCESS(frame_plan_keep(&plan, members, &error));
    gather_all(&plan, stream, &made);
    EXPECT(made.length == members->stream_length);
    EXPECT(made.length == 0 || memcmp(made.data, stream, made.length) == 0);
    frame_plan_free(&plan);
    buffer_free(&made);
}

static void check_member(const struct layer_member *member, const uint8_t *made,
                         const struct layer_member *before, const uint8_t *stream, uint64_t start)
{
    const struct entry *entry = member->entry, *old = before->entry;
    uint64_t data = member->place.data_end - member->place.data;
    EXPECT(member->place.start == start);
    EXPECT(data == before->place.data_end - before->place.data);
    EXPECT(data == 0 || memcmp(made + member->place.data, stream + before->place.data, data) == 0);
    EXPECT(entry->type == old->type && strcmp(entry->path, old->path) == 0);
    EXPECT(!entry->target == !old->target);
    EXPECT(!entry->target || strcmp(entry->target, old->target) == 0);
    EXPECT(entry->mode == old->mode && entry->uid == old->uid && entry->gid == old->gid);
    EXPECT(entry->mtime == old->mtime && entry->mtime_nsec == old->mtime_nsec);
    EXPECT(entry->size == old->size && entry->sparse == old->sparse);
    EXPECT(entry->segment_count == old->segment_count && entry->xattr_count == old->xattr_count);
}

static void check_reordered(const struct layer_members *members, const uint8_t *stream,
                            const size_t *order)
{
    struct error *error = NULL;
    struct frame_plan plan;
    struct buffer made = { 0 };
    struct layer_members again;
    EXPECT_SUCCESS(frame_plan_reorder(&plan, members, order, &error));
    gather_all(&plan, stream, &made);
    EXPECT_SUCCESS(layer_members_read(&again, made.data, made.length, &error));
    EXPECT(again.count == members->count && made.data);
    for (size_t i = 0; i < again.count; i++)
        check_member(&again.members[i], made.data, &members->members[order[i]], stream,
                     plan.member_starts[order[i]]);
    layer_members_free(&again);
    frame_plan_free(&plan);
    buffer_free(&made);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    uint64_t named = take_number(&data, &length, 2);
    struct error *error = NULL;
    struct layer_members members;
    uint8_t *stream = malloc(length + 1);
    EXPECT(stream);
    memcpy(stream, data, length);
    seal_blocks(stream, length);
    if (layer_members_read(&members, stream, length, &error) < 0) {
        expect_error(error);
        error_free(error);
        free(stream);
        return 0;
    }
    check_kept(&members, stream);
    uint32_t *ranks = malloc((members.count + 1) * sizeof *ranks);
    size_t *order = malloc((members.count + 1) * sizeof *order);
    bool kept;
    EXPECT(ranks && order);
    for (size_t i = 0; i < members.count; i++)
        ranks[i] = named >> i % 16 & 1 ? (uint32_t)(members.count - i) : RANK_NONE;
    const struct entry_table *lower = members.table;
    EXPECT_SUCCESS(member_order(&members, ranks, &lower, named & 1, order, &kept, &error));
    if (!kept) check_reordered(&members, stream, order);
    free(ranks);
    free(order);
    layer_members_free(&members);
    free(stream);
    return 0;
}
