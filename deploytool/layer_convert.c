#include "deploytool/layer_convert.h"

#include "base/cleanup.h"
#include "deploytool/temporary_file.h"
#include "index/frame_plan.h"
#include "index/frame_writer.h"
#include "index/layer_scan.h"

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

int layer_convert(const struct layer_to_convert *layer, struct converted_layer *ret,
                  struct error **error)
{
    cleanup_unpacked struct unpacked_layer unpacked = { 0 };
    struct frame_plan plan;
    *ret = (struct converted_layer){ 0 };
    if (unpack(layer, &unpacked, error) < 0 || frame_plan_keep(&plan, &unpacked.members, error) < 0)
        return -1;
    int result = write_blob(layer, &unpacked, &plan, ret, error);
    frame_plan_free(&plan);
    return result;
}

void converted_layer_free(struct converted_layer *layer)
{
    mapping_free(layer->blob);
    *layer = (struct converted_layer){ 0 };
}
