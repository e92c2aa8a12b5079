#include "index/entry_table.h"

#include <limits.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "index/entry-table-internal.h"

#define PATH_BYTES_MAX      4095
#define COMPONENT_BYTES_MAX 255
#define XATTR_NAME_MAX      255
#define XATTR_VALUE_MAX     65535
/* What the kernel's 32-bit device number holds (new_encode_dev()). */
#define DEVICE_MAJOR_MAX 0xfffu
#define DEVICE_MINOR_MAX 0xfffffu

/* A small encoded table can name long paths again and again: this bounds what it may cost. */
#define MEMORY_MAX (1024ull << 20)

#define ENTRIES_PER_BLOCK 1024
#define CHUNK_BYTES       (256u << 10)

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, capacity;
    alignas(max_align_t) char bytes[];
};

struct entry_table {
    struct entry **blocks; /* of ENTRIES_PER_BLOCK each, so that entries keep their address */
    size_t block_count, block_capacity;
    size_t count;
    struct arena_chunk *chunk; /* newest first */
    uint64_t memory;
};

struct entry_table *entry_table_new(void)
{
    return calloc(1, sizeof(struct entry_table));
}

void entry_table_free(struct entry_table *table)
{
    if (!table) return;
    for (struct arena_chunk *chunk = table->chunk, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    for (size_t i = 0; i < table->block_count; i++)
        free(table->blocks[i]);
    free(table->blocks);
    free(table);
}

size_t entry_table_count(const struct entry_table *table)
{
    return table->count;
}

uint64_t entry_table_memory(const struct entry_table *table)
{
    return table->memory;
}

const struct entry *entry_table_get(const struct entry_table *table, size_t position)
{
    return &table->blocks[position / ENTRIES_PER_BLOCK][position % ENTRIES_PER_BLOCK];
}

static void *arena_take(struct entry_table *table, size_t length, size_t alignment)
{
    struct arena_chunk *chunk = table->chunk;
    size_t start = chunk ? (chunk->used + alignment - 1) / alignment * alignment : 0;
    if (!chunk || start > chunk->capacity || length > chunk->capacity - start) {
        size_t capacity = length > CHUNK_BYTES ? length : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + capacity);
        if (!chunk) return NULL;
        *chunk = (struct arena_chunk){ .next = table->chunk, .capacity = capacity };
        table->chunk = chunk;
        start = 0;
    }
    chunk->used = start + length;
    table->memory += length;
    return chunk->bytes + start;
}

static void *arena_copy(struct entry_table *table, const void *data, size_t length)
{
    char *copy = arena_take(table, length + 1, 1);
    if (!copy) return NULL;
    if (length) memcpy(copy, data, length);
    copy[length] = 0;
    return copy;
}

/* Why `path` is not a clean relative path, or NULL. */
static const char *path_fault(const char *path, bool may_be_root, size_t *ret_length)
{
    const char *start = path, *c = path;
    if (!*path) {
        *ret_length = 0;
        return may_be_root ? NULL : "the path is empty";
    }
    for (;; c++) {
        if (*c != '/' && *c) continue;
        size_t length = (size_t)(c - start);
        if (length == 0) return "the path has an empty component";
        if (start[0] == '.' && (length == 1 || (length == 2 && start[1] == '.')))
            return "the path has a \".\" or \"..\" component";
        if (length > COMPONENT_BYTES_MAX) return "a name is longer than 255 bytes";
        if (!*c) break;
        start = c + 1;
    }
    *ret_length = (size_t)(c - path);
    return *ret_length > PATH_BYTES_MAX ? "the path is longer than 4095 bytes" : NULL;
}

static const char *target_fault(const struct entry *entry, size_t *ret_length)
{
    *ret_length = 0;
    if (!entry_type_has_target(entry->type)) return NULL;
    if (!entry->target) return "the link has no target";
    if (entry->type == ENTRY_HARDLINK) {
        const char *fault = path_fault(entry->target, false, ret_length);
        return fault ? "the target of the hard link is not a clean path" : NULL;
    }
    *ret_length = strlen(entry->target);
    if (*ret_length == 0) return "the symbolic link has an empty target";
    return *ret_length > PATH_BYTES_MAX ? "the link target is longer than 4095 bytes" : NULL;
}

static const char *xattrs_fault(const struct entry *entry)
{
    for (uint32_t i = 0; i < entry->xattr_count; i++) {
        const struct entry_xattr *xattr = &entry->xattrs[i];
        size_t length = xattr->name ? strlen(xattr->name) : 0;
        if (length == 0) return "an attribute has no name";
        if (length > XATTR_NAME_MAX) return "the name of an attribute is longer than 255 bytes";
        if (xattr->value_length > XATTR_VALUE_MAX) return "an attribute is longer than 65535 bytes";
        if (strncmp(xattr->name, "trusted.overlay.", 16) == 0)
            return "attributes trusted.overlay.* are not allowed";
        if (i > 0 && strcmp(entry->xattrs[i - 1].name, xattr->name) >= 0)
            return "the attributes are not in the order of their names";
    }
    return NULL;
}

uint64_t entry_data_length(const struct entry *entry)
{
    if (entry->type != ENTRY_REGULAR) return 0;
    if (!entry->sparse) return entry->size;
    uint64_t length = 0;
    for (uint32_t i = 0; i < entry->segment_count; i++)
        length += entry->segments[i].length;
    return length;
}

/* Exactly one way to tell a file: what has no hole is not sparse. */
static const char *segments_fault(const struct entry *entry)
{
    uint64_t end = 0, length = 0;
    if (entry->segment_count > ENTRY_SEGMENTS_MAX) return "the sparse file has too many segments";
    for (uint32_t i = 0; i < entry->segment_count; i++) {
        const struct entry_segment *segment = &entry->segments[i];
        if (segment->length == 0) return "a segment of the sparse file is empty";
        if (segment->offset < end) return "the segments of the sparse file overlap";
        if (i > 0 && segment->offset == end) return "segments of the sparse file touch each other";
        if (segment->offset > entry->size || segment->length > entry->size - segment->offset)
            return "a segment lies behind the end of the sparse file";
        end = segment->offset + segment->length;
        length += segment->length;
    }
    return length == entry->size ? "the sparse file has no hole" : NULL;
}

static const char *content_fault(const struct entry *entry)
{
    if (entry->size > INT64_MAX) return "the size is out of range";
    const char *fault = entry->sparse ? segments_fault(entry) : NULL;
    if (fault) return fault;
    uint64_t length = entry_data_length(entry);
    if (length == 0) return NULL;
    if (entry->data_offset % 512) return "the data offset is not a multiple of 512";
    return entry->data_offset > INT64_MAX - length ? "the size is out of range" : NULL;
}

static const char *attributes_fault(const struct entry *entry)
{
    if (!entry_type_has_attributes(entry->type)) return NULL;
    if (entry->mode & ~07777u) return "the mode has more than permission bits";
    if (entry->mtime_nsec >= 1000000000) return "the time has more than 999999999 nanoseconds";
    if (entry_type_is_device(entry->type) &&
        (entry->device_major > DEVICE_MAJOR_MAX || entry->device_minor > DEVICE_MINOR_MAX))
        return "the device number is out of range";
    const char *fault = entry->type == ENTRY_REGULAR ? content_fault(entry) : NULL;
    return fault ? fault : xattrs_fault(entry);
}

static struct entry *next_slot(struct entry_table *table)
{
    if (table->count == table->block_count * ENTRIES_PER_BLOCK) {
        if (table->block_count == table->block_capacity) {
            size_t capacity = table->block_capacity ? table->block_capacity * 2 : 16;
            struct entry **blocks = reallocarray(table->blocks, capacity, sizeof *blocks);
            if (!blocks) return NULL;
            table->blocks = blocks;
            table->block_capacity = capacity;
        }
        struct entry *block = malloc(ENTRIES_PER_BLOCK * sizeof *block);
        if (!block) return NULL;
        table->blocks[table->block_count++] = block;
    }
    return &table->blocks[table->count / ENTRIES_PER_BLOCK][table->count % ENTRIES_PER_BLOCK];
}

static int copy_xattrs(struct entry_table *table, const struct entry *from, struct entry *to)
{
    struct entry_xattr *xattrs =
        arena_take(table, from->xattr_count * sizeof *xattrs, alignof(struct entry_xattr));
    if (!xattrs) return -1;
    for (uint32_t i = 0; i < from->xattr_count; i++) {
        const struct entry_xattr *xattr = &from->xattrs[i];
        xattrs[i].name = arena_copy(table, xattr->name, strlen(xattr->name));
        xattrs[i].value = arena_copy(table, xattr->value, xattr->value_length);
        xattrs[i].value_length = xattr->value_length;
        if (!xattrs[i].name || !xattrs[i].value) return -1;
    }
    to->xattrs = xattrs;
    to->xattr_count = from->xattr_count;
    return 0;
}

static int copy_content(struct entry_table *table, const struct entry *from, struct entry *to)
{
    to->size = from->size;
    to->data_offset = entry_data_length(from) ? from->data_offset : 0;
    to->sparse = from->sparse;
    if (!from->sparse || from->segment_count == 0) return 0;
    size_t bytes = from->segment_count * sizeof *from->segments;
    struct entry_segment *segments = arena_take(table, bytes, alignof(struct entry_segment));
    if (!segments) return -1;
    memcpy(segments, from->segments, bytes);
    to->segments = segments;
    to->segment_count = from->segment_count;
    return 0;
}

/* Fields that mean nothing for the type stay 0, so that equal layers give equal tables. */
static int copy_entry(struct entry_table *table, const struct entry *from, size_t path_length,
                      size_t target_length, struct entry *to)
{
    *to = (struct entry){ .type = from->type };
    to->path = arena_copy(table, from->path, path_length);
    if (!to->path) return -1;
    if (entry_type_has_target(from->type)) {
        to->target = arena_copy(table, from->target, target_length);
        if (!to->target) return -1;
    }
    if (!entry_type_has_attributes(from->type)) return 0;
    to->mode = from->type == ENTRY_SYMLINK ? 0777 : from->mode;
    to->uid = from->uid;
    to->gid = from->gid;
    to->mtime = from->mtime;
    to->mtime_nsec = from->mtime_nsec;
    if (from->type == ENTRY_REGULAR && copy_content(table, from, to) < 0) return -1;
    if (entry_type_is_device(from->type)) {
        to->device_major = from->device_major;
        to->device_minor = from->device_minor;
    }
    return from->xattr_count ? copy_xattrs(table, from, to) : 0;
}

int entry_table_append(struct entry_table *table, const struct entry *entry, struct error **error)
{
    if (entry->type < ENTRY_REGULAR || entry->type > ENTRY_OPAQUE || !entry->path)
        return error_set(error, ERROR_INVALID, "entry of unknown type %d", (int)entry->type);

    size_t path_length = 0, target_length = 0;
    bool may_be_root = entry->type == ENTRY_DIRECTORY || entry->type == ENTRY_OPAQUE;
    const char *fault = path_fault(entry->path, may_be_root, &path_length);
    if (!fault) fault = target_fault(entry, &target_length);
    if (!fault) fault = attributes_fault(entry);
    if (fault) return error_set(error, ERROR_INVALID, "entry \"%.300s\": %s", entry->path, fault);

    if (table->memory + table->count * sizeof *entry > MEMORY_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "entry \"%.300s\": the entries of one layer need more than %llu MiB",
                         entry->path, MEMORY_MAX >> 20);

    struct entry *slot = next_slot(table);
    if (!slot || copy_entry(table, entry, path_length, target_length, slot) < 0)
        return error_set_memory(error);
    table->count++;
    return 0;
}
