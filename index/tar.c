/*
 * The reader is a state machine over 512-byte blocks. What wins over what is as
 * in Go's archive/tar: GNU long names over PAX records, those over the header
 * block, and the name of a sparse file over all of them.
 */
#include "index/tar.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log.h"
#include "index/tar-internal.h"

enum tar_state {
    AT_HEADER,
    IN_META,       /* the data of a PAX header or GNU long name */
    IN_SPARSE_MAP, /* blocks between the header of a sparse file and its data */
    IN_DATA,       /* of a file, or padding: passed over */
    AT_END,        /* after the two blocks of zeros */
    FAILED,
};

struct tar_reader {
    struct entry_table *table;
    enum tar_state state;
    uint64_t position;        /* in the stream */
    uint64_t header_position; /* of the header that is being read */

    uint8_t block[TAR_BLOCK];
    size_t block_filled;
    bool saw_zero_block;

    uint64_t skip;    /* bytes left to pass over */
    uint64_t padding; /* how many of them are padding, which the last file may lack */

    size_t meta_length;
    struct buffer meta;

    struct tar_header header;
    struct pax_records global, local;
    struct buffer long_name, long_link; /* with NUL; empty: none */
    struct entry_xattr xattrs[2 * TAR_RECORDS_MAX];
    struct sparse_segments sparse; /* of a map that is not in PAX records */
    struct sparse_lines sparse_lines;

    tar_place_seen *place_seen;
    void *place_context;
    uint64_t place_start;
    bool speaks_for_others; /* between there and here is what is not the entry's own */
};

struct tar_reader *tar_reader_new(struct entry_table *table)
{
    struct tar_reader *reader = calloc(1, sizeof *reader);
    if (reader) reader->table = table;
    return reader;
}

void tar_reader_show_places(struct tar_reader *reader, tar_place_seen *seen, void *context)
{
    reader->place_seen = seen;
    reader->place_context = context;
}

void tar_reader_free(struct tar_reader *reader)
{
    if (!reader) return;
    buffer_free(&reader->meta);
    buffer_free(&reader->long_name);
    buffer_free(&reader->long_link);
    pax_records_free(&reader->global);
    pax_records_free(&reader->local);
    sparse_segments_free(&reader->sparse);
    free(reader);
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
}

static void forget_extensions(struct tar_reader *reader)
{
    pax_records_clear(&reader->local);
    reader->long_name.length = 0;
    reader->long_link.length = 0;
}

static void pass_over(struct tar_reader *reader, uint64_t size)
{
    reader->state = size > 0 ? IN_DATA : AT_HEADER;
    reader->padding = round_up(size) - size;
    reader->skip = round_up(size);
}

static int show_place(struct tar_reader *reader, bool is_entry, uint64_t size, struct error **error)
{
    struct tar_place place = { .start = reader->place_start,
                               .data = reader->position,
                               .data_end = reader->position + size,
                               .is_entry = is_entry,
                               .stands_alone = !reader->speaks_for_others };
    reader->place_start = reader->position + round_up(size);
    reader->speaks_for_others = false;
    return reader->place_seen ? reader->place_seen(reader->place_context, &place, error) : 0;
}

/* Everything about the entry is known, and its data starts here. */
static int finish_entry(struct tar_reader *reader, struct error **error)
{
    const struct tar_header *header = &reader->header;
    const struct sparse_segments *sparse =
        header->sparse == TAR_SPARSE_PAX ? &reader->local.sparse : &reader->sparse;
    uint64_t size = tar_type_has_data(header->type) ? header->size : 0;
    size_t entries = entry_table_count(reader->table);
    if (tar_entry_append(reader->table, header, sparse, reader->position, error) < 0) return -1;
    forget_extensions(reader);
    pass_over(reader, size);
    return show_place(reader, entry_table_count(reader->table) > entries, size, error);
}

static void let_long_names_speak(struct tar_reader *reader)
{
    struct tar_header *header = &reader->header;
    if (reader->long_name.length) header->name = (const char *)reader->long_name.data;
    if (reader->long_link.length) header->link = (const char *)reader->long_link.data;
    if (header->sparse_name) header->name = header->sparse_name;
}

/* Which form of map the entry has, if any, and what of it is in the header block. */
static int start_sparse(struct tar_reader *reader, struct error **error)
{
    struct tar_header *header = &reader->header;
    bool more = header->sparse == TAR_SPARSE_DATA;
    if (header->type == 'S') {
        if (header->sparse != TAR_NOT_SPARSE)
            return error_set(error, ERROR_INVALID, "it has sparse maps of two kinds");
        header->sparse = TAR_SPARSE_OLD;
        header->has_real_size = true;
        if (sparse_read_header(&reader->sparse, reader->block, &header->real_size, &more, error) <
            0)
            return -1;
    }
    if (header->sparse != TAR_NOT_SPARSE && !header->has_real_size)
        return error_set(error, ERROR_INVALID, "its sparse map does not tell the file's size");
    if (more) reader->state = IN_SPARSE_MAP;
    return 0;
}

static int read_entry(struct tar_reader *reader, struct error **error)
{
    struct tar_header *header = &reader->header;
    header->xattrs = reader->xattrs;
    sparse_segments_clear(&reader->sparse);
    reader->sparse_lines = (struct sparse_lines){ 0 };
    if (tar_type_is_passed_over(header->type)) {
        forget_extensions(reader);
        pass_over(reader, header->size);
        return show_place(reader, false, header->size, error);
    }
    if (tar_header_read(header, reader->block, error) < 0) return -1;
    if (pax_records_apply(&reader->global, &reader->local, header, error) < 0) return -1;
    let_long_names_speak(reader);
    if (reader->local.has_unnumbered_acl || reader->global.has_unnumbered_acl)
        log_warning("tar entry \"%.300s\": its ACL names somebody without a number and is left out",
                    header->name);
    if (start_sparse(reader, error) < 0) return -1;
    return reader->state == IN_SPARSE_MAP ? 0 : finish_entry(reader, error);
}

/* `reader->block` is a block of the map that stands before the data. */
static int read_sparse_map(struct tar_reader *reader, struct error **error)
{
    struct tar_header *header = &reader->header;
    bool more = false;
    int status;
    if (header->sparse == TAR_SPARSE_OLD) {
        status = sparse_read_extension(&reader->sparse, reader->block, &more, error);
    } else {
        /* Here the map is part of the entry's data. */
        if (header->size < TAR_BLOCK)
            return error_set(error, ERROR_INVALID, "its sparse map is cut short");
        header->size -= TAR_BLOCK;
        status =
            sparse_read_lines(&reader->sparse, &reader->sparse_lines, reader->block, &more, error);
    }
    return status < 0 || more ? status : finish_entry(reader, error);
}

/* Starts taking in the data of an 'x', 'g', 'L' or 'K' header. */
static int read_meta_header(struct tar_reader *reader, struct error **error)
{
    uint64_t size = reader->header.size;
    if (size > TAR_META_BYTES_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "an extended header is longer than 1 MiB");
    reader->meta_length = (size_t)size;
    reader->meta.length = 0;
    reader->skip = round_up(size);
    reader->state = IN_META;
    return 0;
}

static int take_long_name(struct buffer *to, const struct buffer *meta, size_t length,
                          struct error **error)
{
    to->length = 0;
    length = strnlen((const char *)meta->data, length);
    if (buffer_append(to, meta->data, length) < 0 || buffer_append_u8(to, 0) < 0)
        return error_set_memory(error);
    return 0;
}

static int take_meta(struct tar_reader *reader, struct error **error)
{
    const struct buffer *meta = &reader->meta;
    size_t length = reader->meta_length;
    reader->state = AT_HEADER;
    if (length == 0 && (reader->header.type == 'L' || reader->header.type == 'K')) return 0;
    switch (reader->header.type) {
    case 'L':
        return take_long_name(&reader->long_name, meta, length, error);
    case 'K':
        return take_long_name(&reader->long_link, meta, length, error);
    case 'g':
        reader->speaks_for_others = true;
        return pax_records_parse(&reader->global, meta->data, length, error);
    default:
        pax_records_clear(&reader->local); /* the last one holds */
        return pax_records_parse(&reader->local, meta->data, length, error);
    }
}

static int fail(struct tar_reader *reader, struct error **error)
{
    const char *name = reader->header.name;
    unsigned long long offset = reader->header_position;
    reader->state = FAILED;
    if (name && *name)
        return error_prefix(error, "tar entry \"%.300s\" (header at byte %llu of the stream)", name,
                            offset);
    return error_prefix(error, "tar header at byte %llu of the stream", offset);
}

/* `reader->block` is full, and `position` behind it. */
static int read_header(struct tar_reader *reader, struct error **error)
{
    const uint8_t *block = reader->block;
    reader->header_position = reader->position - TAR_BLOCK;
    reader->header.name = NULL;
    if (tar_block_is_zero(block)) {
        if (reader->saw_zero_block) reader->state = AT_END;
        reader->saw_zero_block = true;
        return 0;
    }
    if (reader->saw_zero_block)
        return error_set(error, ERROR_INVALID, "a header follows a block of zeros");
    if (tar_check_checksum(block) < 0)
        return error_set(error, ERROR_INVALID, "wrong checksum; this is not a tar header");
    if (tar_header_start(&reader->header, block, error) < 0) return -1;
    char type = reader->header.type;
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K')
        return read_meta_header(reader, error);
    return read_entry(reader, error);
}

static int feed_block(struct tar_reader *reader, const uint8_t *data, size_t length,
                      size_t *ret_taken, struct error **error)
{
    size_t taken = TAR_BLOCK - reader->block_filled;
    if (taken > length) taken = length;
    memcpy(reader->block + reader->block_filled, data, taken);
    reader->block_filled += taken;
    reader->position += taken;
    *ret_taken = taken;
    if (reader->block_filled < TAR_BLOCK) return 0;
    reader->block_filled = 0;
    return reader->state == AT_HEADER ? read_header(reader, error) : read_sparse_map(reader, error);
}

static int feed_meta(struct tar_reader *reader, const uint8_t *data, size_t length,
                     size_t *ret_taken, struct error **error)
{
    size_t taken = length < reader->skip ? length : (size_t)reader->skip;
    *ret_taken = taken;
    reader->skip -= taken;
    reader->position += taken;
    if (buffer_append(&reader->meta, data, taken) < 0) return error_set_memory(error);
    if (reader->skip > 0) return 0;
    /* What it is called is of no use to anybody. */
    reader->header.name = NULL;
    return take_meta(reader, error);
}

int tar_reader_feed(struct tar_reader *reader, const void *data, size_t length,
                    struct error **error)
{
    const uint8_t *next = data;
    int status = 0;
    /* A header without data is complete at once, also when nothing follows yet. */
    while (status == 0 && (length > 0 || (reader->state == IN_META && reader->skip == 0))) {
        size_t taken = 0;
        switch (reader->state) {
        case AT_HEADER:
        case IN_SPARSE_MAP:
            status = feed_block(reader, next, length, &taken, error);
            break;
        case IN_META:
            status = feed_meta(reader, next, length, &taken, error);
            break;
        case IN_DATA:
            taken = length < reader->skip ? length : (size_t)reader->skip;
            reader->skip -= taken;
            reader->position += taken;
            if (reader->skip == 0) reader->state = AT_HEADER;
            break;
        case AT_END:
            taken = length;
            reader->position += taken;
            break;
        case FAILED:
            return error_set(error, ERROR_INVALID, "tar: reading goes on after an error");
        }
        next += taken;
        length -= taken;
    }
    return status < 0 ? fail(reader, error) : 0;
}

int tar_reader_finish(struct tar_reader *reader, struct error **error)
{
    bool inside = false;
    switch (reader->state) {
    case AT_HEADER:
        inside = reader->block_filled > 0 || reader->local.count > 0 ||
                 reader->long_name.length > 0 || reader->long_link.length > 0;
        break;
    case IN_META:
    case IN_SPARSE_MAP:
        inside = true;
        break;
    case IN_DATA:
        inside = reader->skip > reader->padding;
        break;
    case AT_END:
        break;
    case FAILED:
        return error_set(error, ERROR_INVALID, "tar: the stream ended after an error");
    }
    if (!inside) return 0;
    reader->state = FAILED;
    return error_set(error, ERROR_INVALID, "tar: the stream ends inside an entry, at byte %llu",
                     (unsigned long long)reader->position);
}
