#include "snapshotter/snapshots_message-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.pb-c.h"

/* Short names for what the generator calls by the whole of its package. */
typedef Containerd__Services__Snapshots__V1__Info info_message;
typedef Containerd__Services__Snapshots__V1__Info__LabelsEntry label_message;
typedef Containerd__Services__Snapshots__V1__UsageResponse usage_message;
typedef Containerd__Types__Mount mount_message;

/* What a request may take when it is unpacked: an empty label is two bytes before and a hundred
 * after. As many labels as there may be, with the length that they may have, are half of it. */
enum { UNPACKED_LIMIT = 8 << 20 };

static void *allocate(void *context, size_t size)
{
    size_t *left = context;
    if (size > *left) return NULL;
    *left -= size;
    return malloc(size);
}

static void release(void *context, void *data)
{
    (void)context;
    free(data);
}

/* A varint of a message that was unpacked already. */
static uint64_t next_varint(struct cursor *cursor)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = cursor_u8(cursor);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) break;
    }
    return value;
}

/* A text in C ends at its first NUL, and would then be another name than the one that was meant.
 * The messages are of few levels, none is part of itself. */
static bool has_cut_text(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                         size_t length)
{
    struct cursor cursor = cursor_of(data, length);
    while (cursor_left(&cursor) > 0) {
        uint64_t tag = next_varint(&cursor);
        const ProtobufCFieldDescriptor *field = NULL;
        if (tag >> 3 <= UINT32_MAX)
            field = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
        size_t size = (tag & 7) == 1 ? 8 : 4;
        if ((tag & 7) == 0) {
            next_varint(&cursor);
            continue;
        }
        if ((tag & 7) == 2) size = next_varint(&cursor);
        const uint8_t *bytes = cursor_bytes(&cursor, size);
        if (!bytes || (tag & 7) != 2 || !field) continue;
        if (field->type == PROTOBUF_C_TYPE_STRING && memchr(bytes, 0, size)) return true;
        if (field->type == PROTOBUF_C_TYPE_MESSAGE && has_cut_text(field->descriptor, bytes, size))
            return true;
    }
    return cursor.failed;
}

ProtobufCMessage *request_read(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                               size_t length, struct error **error)
{
    size_t left = UNPACKED_LIMIT;
    ProtobufCAllocator allocator = { allocate, release, &left };
    ProtobufCMessage *request = protobuf_c_message_unpack(descriptor, &allocator, length, data);
    if (!request) {
        error_set(error, ERROR_INVALID, "the request is no %s, or too large",
                  descriptor->short_name);
        return NULL;
    }
    if (has_cut_text(descriptor, data, length)) {
        error_set(error, ERROR_INVALID, "the request has a text with a NUL");
        request_free(request);
        return NULL;
    }
    return request;
}

void request_free(ProtobufCMessage *request)
{
    ProtobufCAllocator allocator = { allocate, release, NULL };
    if (request) protobuf_c_message_free_unpacked(request, &allocator);
}

/* Of such a field protobuf-c gives the bytes as they came, the length in front; the last one
 * counts. */
char *newer_text(const ProtobufCMessage *request, uint32_t number, struct error **error)
{
    const char *text = "";
    size_t length = 0;
    for (unsigned i = 0; i < request->n_unknown_fields; i++) {
        const ProtobufCMessageUnknownField *field = &request->unknown_fields[i];
        if (field->tag != number || field->wire_type != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
            continue;
        struct cursor cursor = cursor_of(field->data, field->len);
        size_t size = next_varint(&cursor);
        text = (const char *)cursor_bytes(&cursor, size);
        if (!text || memchr(text, 0, size)) {
            error_set(error, ERROR_INVALID, "the request has a text with a NUL");
            return NULL;
        }
        length = size;
    }
    char *copy = strndup(text, length);
    if (!copy) error_set_memory(error);
    return copy;
}

int labels_of_map(const void *entries, size_t count, struct labels *ret, struct error **error)
{
    /* Each message with such a map has an entry type of its own, all of this shape. */
    label_message *const *labels = entries;
    *ret = (struct labels){ 0 };
    for (size_t i = 0; i < count; i++) {
        if (labels_set(ret, labels[i]->key, labels[i]->value, error) < 0) {
            labels_free(ret);
            return -1;
        }
    }
    return 0;
}

/* Field 1 of a message, whose bytes are another message. */
static int append_message(struct buffer *to, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (buffer_append_u8(to, 1 << 3 | 2) < 0 || buffer_append_varint(to, size) < 0 ||
        buffer_reserve(to, size) < 0)
        return -1;
    to->length += protobuf_c_message_pack(message, to->data + to->length);
    return 0;
}

int append_mounts(struct buffer *to, const struct mount_list *mounts)
{
    for (size_t i = 0; i < mounts->count; i++) {
        const struct mount_entry *entry = &mounts->entries[i];
        mount_message message = CONTAINERD__TYPES__MOUNT__INIT;
        message.type = entry->type;
        message.source = entry->source;
        message.target = entry->target;
        message.n_options = entry->option_count;
        message.options = entry->options;
        if (append_message(to, &message.base) < 0) return -1;
    }
    return 0;
}

static Google__Protobuf__Timestamp timestamp_of(const struct timespec *time)
{
    Google__Protobuf__Timestamp timestamp = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    timestamp.seconds = time->tv_sec;
    timestamp.nanos = (int32_t)time->tv_nsec;
    return timestamp;
}

int append_info(struct buffer *to, const struct snapshot_info *info)
{
    size_t count = info->labels.count;
    cleanup_free label_message *entries = calloc(count + 1, sizeof *entries);
    cleanup_free label_message **pointers = calloc(count + 1, sizeof *pointers);
    Google__Protobuf__Timestamp created = timestamp_of(&info->created);
    Google__Protobuf__Timestamp updated = timestamp_of(&info->updated);
    info_message message = CONTAINERD__SERVICES__SNAPSHOTS__V1__INFO__INIT;
    if (!entries || !pointers) return -1;
    for (size_t i = 0; i < count; i++) {
        containerd__services__snapshots__v1__info__labels_entry__init(&entries[i]);
        entries[i].key = info->labels.entries[i].key;
        entries[i].value = info->labels.entries[i].value;
        pointers[i] = &entries[i];
    }
    message.name = info->name;
    message.parent = info->parent;
    message.kind = (Containerd__Services__Snapshots__V1__Kind)info->kind;
    message.created_at = &created;
    message.updated_at = &updated;
    message.n_labels = count;
    message.labels = pointers;
    return append_message(to, &message.base);
}

int append_usage(struct buffer *to, const struct snapshot_usage *usage)
{
    usage_message message = CONTAINERD__SERVICES__SNAPSHOTS__V1__USAGE_RESPONSE__INIT;
    message.size = (int64_t)usage->size;
    message.inodes = (int64_t)usage->inodes;
    size_t size = protobuf_c_message_get_packed_size(&message.base);
    if (size == 0) return 0;
    if (buffer_reserve(to, size) < 0) return -1;
    to->length += protobuf_c_message_pack(&message.base, to->data + to->length);
    return 0;
}
