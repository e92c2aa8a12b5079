#include "index/layer_members.h"

#include <stdlib.h>

#include "index/tar-internal.h"

/* tar_place_seen */
static int add_member(void *context, const struct tar_place *place, struct error **error)
{
    struct layer_members *members = context;
    if (members->count == members->capacity) {
        size_t capacity = members->capacity ? 2 * members->capacity : 256;
        struct layer_member *grown = realloc(members->members, capacity * sizeof *grown);
        if (!grown) return error_set_memory(error);
        members->members = grown;
        members->capacity = capacity;
    }
    if (place->data < place->start || place->data_end < place->data ||
        place->data_end > members->stream_length)
        return error_set(error, ERROR_INVALID, "its data reaches behind the end of the stream");
    const struct entry *entry =
        place->is_entry ? entry_table_get(members->table, entry_table_count(members->table) - 1)
                        : NULL;
    members->members[members->count++] = (struct layer_member){ *place, entry };
    return 0;
}

int layer_members_read(struct layer_members *ret, const void *stream, uint64_t length,
                       struct error **error)
{
    *ret = (struct layer_members){ .table = entry_table_new(), .stream_length = length };
    struct tar_reader *reader = ret->table ? tar_reader_new(ret->table) : NULL;
    int result = -1;
    if (reader) {
        tar_reader_show_places(reader, add_member, ret);
        result = tar_reader_feed(reader, stream, length, error);
        if (result == 0) result = tar_reader_finish(reader, error);
    } else {
        error_set_memory(error);
    }
    tar_reader_free(reader);
    if (result < 0) layer_members_free(ret);
    return result;
}

void layer_members_free(struct layer_members *members)
{
    entry_table_free(members->table);
    free(members->members);
    *members = (struct layer_members){ 0 };
}

uint64_t layer_member_end(const struct layer_members *members, size_t member)
{
    uint64_t end = members->members[member].place.data_end;
    uint64_t padding = (TAR_BLOCK - end % TAR_BLOCK) % TAR_BLOCK;
    return padding > members->stream_length - end ? members->stream_length : end + padding;
}
