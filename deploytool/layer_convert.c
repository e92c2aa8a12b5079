#include "deploytool/layer_convert.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "index/frame_plan.h"
#include "index/frame_writer.h"
#include "index/layer_members.h"
#include "index/layer_scan.h"
#include "index/layer_touches.h"
#include "index/member_order.h"
#include "node/temporary_file.h"

/* The layer as it is: its stream in a file, and what is in it. */
struct unpacked_layer {
    struct mapping *stream; /* NULL: it is empty */
    struct layer_tables tables;
    struct layer_members members;
};

static void unpacked_layer_free(struct unpacked_layer *unpacked)
{
    layer_members_free(&unpacked->members);
    layer_tables_free(&unpacked->tables);
    mapping_free(unpacked->stream);
}
#define cleanup_unpacked __attribute__((cleanup(unpacked_layer_free)))

/* layer_read */
static ssize_t read_blob(void *context, void *data, size_t capacity, struct error **error)
{
    return blob_stream_read(context, data, capacity, error);
}

static int unpack_into(const struct layer_to_convert *layer, int file, struct layer_tables *ret,
                       struct error **error)
{
    struct blob_stream *stream;
    const struct descriptor *descriptor = layer->descriptor;
    if (registry_open_blob(layer->client, layer->repository, &descriptor->digest, descriptor->size,
                           &stream, error) < 0)
        return -1;
    int result = layer_scan_copy(read_blob, stream, descriptor->size, &descriptor->digest,
                                 layer->stream_digest, file, ret, error);
    blob_stream_close(stream);
    return result;
}

static int unpack(const struct layer_to_convert *layer, struct unpacked_layer *ret,
                  struct error **error)
{
    cleanup_close int file = temporary_file_open(error);
    if (file < 0 || unpack_into(layer, file, &ret->tables, error) < 0) return -1;
    uint64_t length = ret->tables.chunks->stream_length;
    if (length && mapping_new(&ret->stream, file, length, MAPPING_READ_ONLY, error) < 0) return -1;
    const void *stream = ret->stream ? mapping_data(ret->stream) : NULL;
    int result = layer_members_read(&ret->members, stream, length, error);
    if (ret->stream && mapping_is_damaged(ret->stream)) {
        if (result < 0) return -1;
        return error_set(error, ERROR_SYSTEM, "a temporary file cannot be read");
    }
    return result;
}

static int write_blob(const struct layer_to_convert *layer, const struct unpacked_layer *unpacked,
                      const struct frame_plan *plan, struct converted_layer *ret,
                      struct error **error)
{
    struct written_blob written;
    cleanup_close int file = temporary_file_open(error);
    if (file < 0 || frame_writer_run(plan, unpacked->stream, layer->level, layer->threads, file,
                                     &written, error) < 0)
        return -1;
    ret->as = (struct rewritten_layer){ written.digest, written.length, written.stream_digest };
    ret->stream_length = plan->stream_length;
    ret->frame_count = plan->frame_count;
    return mapping_new(&ret->blob, file, written.length, MAPPING_READ_ONLY, error);
}

/* ---- with a profile ---- */

static int plan_with(const struct layer_to_convert *layer, const struct layer_members *members,
                     const struct layer_touches *touches, struct frame_plan *ret,
                     bool *ret_reordered, struct error **error)
{
    bool kept;
    cleanup_free size_t *order = calloc(members->count + 1, sizeof *order);
    if (!order) return error_set_memory(error);
    if (member_order(members, touches->ranks, layer->lower, layer->lower_count, order, &kept,
                     error) < 0)
        return -1;
    *ret_reordered = !kept;
    return kept ? frame_plan_keep(ret, members, error)
                : frame_plan_reorder(ret, members, order, error);
}

static int move_touches(const struct layer_touches *touches, const struct frame_plan *plan,
                        struct converted_layer *ret, struct error **error)
{
    ret->touches = calloc(touches->count + 1, sizeof *ret->touches);
    if (!ret->touches) return error_set_memory(error);
    for (size_t i = 0; i < touches->count; i++) {
        const struct touch *touch = &touches->touches[i];
        /* The analyzer does not know that error_set_memory() returns -1, and so that there is a
         * plan. */
        // NOLINTNEXTLINE(clang-analyzer-core.NullDereference)
        ret->touches[i] = (struct moved_touch){ plan->member_starts[touch->member] + touch->offset,
                                                touch->length, touch->entry, touch->named };
    }
    ret->touch_count = touches->count;
    return 0;
}

static int plan_by_profile(const struct layer_to_convert *layer,
                           const struct layer_members *members, struct frame_plan *ret_plan,
                           struct converted_layer *ret, struct error **error)
{
    struct layer_touches touches;
    const struct layer_profile *profile = layer->profile;
    if (layer_touches_find(&touches, members, profile->table, profile->profile, profile->layer,
                           error) < 0)
        return -1;
    int result = plan_with(layer, members, &touches, ret_plan, &ret->reordered, error);
    if (result == 0) result = move_touches(&touches, ret_plan, ret, error);
    layer_touches_free(&touches);
    return result;
}

int layer_convert(const struct layer_to_convert *layer, struct converted_layer *ret,
                  struct error **error)
{
    cleanup_unpacked struct unpacked_layer unpacked = { 0 };
    struct frame_plan plan = { 0 };
    *ret = (struct converted_layer){ 0 };
    if (unpack(layer, &unpacked, error) < 0) return -1;
    int result = layer->profile ? plan_by_profile(layer, &unpacked.members, &plan, ret, error)
                                : frame_plan_keep(&plan, &unpacked.members, error);
    if (result == 0) result = write_blob(layer, &unpacked, &plan, ret, error);
    ret->entries = take_pointer(&unpacked.members.table);
    frame_plan_free(&plan);
    return result;
}

void converted_layer_free(struct converted_layer *layer)
{
    mapping_free(layer->blob);
    entry_table_free(layer->entries);
    free(layer->touches);
    *layer = (struct converted_layer){ 0 };
}
