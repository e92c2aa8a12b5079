/* Writes what index/erofs_plan.c has laid out. */
#include <stdlib.h>
#include <string.h>

#include "index/erofs-writer-internal.h"

static void erofs_writer_free(struct erofs_writer *writer)
{
    free(writer->children);
    free(writer->directories);
    free(writer->stack);
}

static void write_device(const struct erofs_writer *writer, uint32_t position,
                         const struct erofs_disk_device *device)
{
    memcpy(writer->image + EROFS_DEVICE_TABLE_OFFSET + position * sizeof *device, device,
           sizeof *device);
}

static int write_devices(struct erofs_writer *writer, struct error **error)
{
    if (writer->sparse_blocks > 0) {
        struct erofs_disk_device device = { .tag = EROFS_SPARSE_TAG,
                                            .blocks = htole32((uint32_t)writer->sparse_blocks) };
        write_device(writer, writer->layer_count, &device);
    }
    for (uint32_t i = 0; i < writer->layer_count; i++) {
        uint64_t blocks = writer->layers[i].stream_length / EROFS_BLOCK +
                          (writer->layers[i].stream_length % EROFS_BLOCK != 0);
        if (blocks >= UINT32_MAX)
            return error_set(error, ERROR_UNSUPPORTED, "layer %u: it is larger than 2 TiB", i + 1);
        char hex[DIGEST_HEX_SIZE];
        struct erofs_disk_device device = { .blocks = htole32((uint32_t)blocks) };
        digest_format_hex(&writer->layers[i].stream_digest, hex);
        memcpy(device.tag, hex, sizeof device.tag);
        write_device(writer, i, &device);
    }
    return 0;
}

static int write_superblock(struct erofs_writer *writer, uint64_t size, struct error **error)
{
    uint8_t *at = writer->image + EROFS_SUPERBLOCK_OFFSET;
    struct erofs_disk_superblock super = {
        .magic = htole32(EROFS_MAGIC),
        .feature_compatible = htole32(EROFS_COMPATIBLE),
        .block_bits = EROFS_BLOCK_BITS,
        .root_nid = htole16((uint16_t)(writer->tree->inodes[TREE_ROOT].offset / EROFS_SLOT)),
        .inode_count = htole64(writer->placed),
        .blocks = htole32((uint32_t)(size / EROFS_BLOCK)),
        .volume_name = EROFS_VOLUME_NAME,
        .feature_incompatible = htole32(EROFS_INCOMPATIBLE),
        .device_count = htole16((uint16_t)erofs_device_count(writer)),
        .device_table_slot =
            htole16(EROFS_DEVICE_TABLE_OFFSET / (uint16_t)sizeof(struct erofs_disk_device)),
    };
    if (erofs_uuid_of(writer->image + EROFS_DEVICE_TABLE_OFFSET, erofs_device_count(writer),
                      super.uuid) < 0)
        return error_set_memory(error);
    memcpy(at, &super, sizeof super);
    return 0;
}

static void write_xattrs(uint8_t *at, const struct entry *entry)
{
    at += sizeof(struct erofs_disk_xattrs);
    for (uint32_t i = 0; i < entry->xattr_count; i++) {
        const struct entry_xattr *xattr = &entry->xattrs[i];
        const struct erofs_xattr_prefix *prefix = erofs_xattr_prefix_of(xattr->name);
        if (!prefix) continue;
        size_t length = strlen(xattr->name) - prefix->length;
        struct erofs_disk_xattr disk = { (uint8_t)length, prefix->number,
                                         htole16((uint16_t)xattr->value_length) };
        memcpy(at, &disk, sizeof disk);
        memcpy(at + sizeof disk, xattr->name + prefix->length, length);
        memcpy(at + sizeof disk + length, xattr->value, xattr->value_length);
        at += erofs_round_up(sizeof disk + length + xattr->value_length, 4);
    }
}

static void write_sparse(struct erofs_writer *writer, const struct tree_inode *inode,
                         const struct entry *entry, uint8_t *at)
{
    erofs_sparse_write(entry, inode->layer, (uint16_t)erofs_device_count(writer),
                       (uint32_t)writer->next_sparse_block, (void *)at, writer->next_record);
    writer->next_record += (size_t)entry->segment_count * SPARSE_MAP_RECORD_BYTES;
    writer->next_sparse_block += erofs_sparse_blocks(entry);
}

static void write_chunks(const struct tree_inode *inode, const struct entry *entry, uint8_t *at)
{
    unsigned bits = erofs_chunk_bits_of(inode);
    uint64_t count = erofs_chunk_count(inode->size, bits);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t block = entry->data_offset / EROFS_BLOCK + (i << bits);
        struct erofs_disk_chunk chunk = { .device = htole16((uint16_t)(inode->layer + 1)),
                                          .block = htole32((uint32_t)block) };
        memcpy(at + i * sizeof chunk, &chunk, sizeof chunk);
    }
}

/* As the kernel's new_encode_dev(). */
static uint32_t encode_device(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static uint32_t inode_place(const struct erofs_writer *writer, const struct tree_inode *inode,
                            const struct erofs_placement *place)
{
    const struct entry *entry = inode->entry;
    if (place->layout == EROFS_CHUNKED) return erofs_chunk_bits_of(inode) | EROFS_CHUNK_INDEXES;
    if (place->blocks) return writer->first_outside + inode->data_block;
    if (entry && (entry->type == ENTRY_CHARACTER_DEVICE || entry->type == ENTRY_BLOCK_DEVICE))
        return encode_device(entry->device_major, entry->device_minor);
    return 0;
}

static void write_inode(struct erofs_writer *writer, const struct tree_inode *inode)
{
    static const struct entry implied = { .mode = 0755 };
    const struct entry *entry = inode->entry ? inode->entry : &implied;
    uint32_t mode = erofs_mode_of(inode);
    struct erofs_placement place = erofs_place_at(inode, inode->offset);
    uint32_t links = S_ISDIR(mode) ? 2 + inode->directory_count : inode->name_count;
    struct erofs_disk_inode disk = {
        .format = htole16((uint16_t)(1 | place.layout << 1)),
        .xattr_count =
            htole16((uint16_t)(inode->xattr_bytes ? (inode->xattr_bytes - 12) / 4 + 1 : 0)),
        .mode = htole16((uint16_t)mode),
        .size = htole64(inode->size),
        .place = htole32(inode_place(writer, inode, &place)),
        .number = htole32(inode->number),
        .uid = htole32(entry->uid),
        .gid = htole32(entry->gid),
        .mtime = htole64((uint64_t)entry->mtime),
        .mtime_nsec = htole32(entry->mtime_nsec),
        .link_count = htole32(links),
    };
    memcpy(writer->image + inode->offset, &disk, sizeof disk);
    if (inode->xattr_bytes) write_xattrs(writer->image + inode->offset + sizeof disk, entry);
    if (place.layout != EROFS_CHUNKED) return;
    if (entry->sparse)
        write_sparse(writer, inode, entry, writer->image + place.payload);
    else
        write_chunks(inode, entry, writer->image + place.payload);
}

/* Where block `number` of a directory's or link target's data goes. */
static uint8_t *data_block(const struct erofs_writer *writer, const struct tree_inode *inode,
                           uint64_t number)
{
    struct erofs_placement place = erofs_place_at(inode, inode->offset);
    if (number >= place.blocks) return writer->image + place.payload;
    return writer->image + (writer->first_outside + inode->data_block + number) * EROFS_BLOCK;
}

static void write_symlink(struct erofs_writer *writer, const struct tree_inode *inode)
{
    for (uint64_t at = 0; at < inode->size; at += EROFS_BLOCK) {
        uint64_t left = inode->size - at;
        memcpy(data_block(writer, inode, at / EROFS_BLOCK), inode->entry->target + at,
               left < EROFS_BLOCK ? left : EROFS_BLOCK);
    }
}

static const struct tree_inode *child_inode(const struct erofs_writer *writer, uint32_t directory,
                                            uint32_t child)
{
    uint32_t name = child;
    if (child == NAME_DOT) name = directory;
    if (child == NAME_DOTDOT)
        name = directory == TREE_ROOT ? TREE_ROOT : writer->tree->names[directory].parent;
    return tree_inode_of(writer->tree, name);
}

static void write_directory_block(const struct erofs_writer *writer, uint32_t directory,
                                  uint32_t first, uint32_t count, uint8_t *block)
{
    size_t name_offset = count * sizeof(struct erofs_disk_dirent);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t child = writer->children[first + i].name;
        const struct tree_inode *inode = child_inode(writer, directory, child);
        struct erofs_disk_dirent dirent = { .nid = htole64(inode->offset / EROFS_SLOT),
                                            .name_offset = htole16((uint16_t)name_offset),
                                            .type = erofs_file_type(erofs_mode_of(inode)) };
        size_t length;
        const char *text = erofs_child_text(writer, child, &length);
        memcpy(block + i * sizeof dirent, &dirent, sizeof dirent);
        memcpy(block + name_offset, text, length);
        name_offset += length;
    }
}

static void write_directory(const struct erofs_writer *writer, uint32_t directory)
{
    const struct tree_inode *inode = tree_inode_of(writer->tree, directory);
    uint32_t at = inode->children, end = at + inode->child_count + 2, bytes;
    for (uint64_t number = 0; at < end; number++) {
        uint32_t count = erofs_fill_block(writer, at, end, &bytes);
        write_directory_block(writer, directory, at, count, data_block(writer, inode, number));
        at += count;
    }
}

static void write_all(struct erofs_writer *writer)
{
    uint32_t written = 1;
    write_inode(writer, tree_inode_of(writer->tree, TREE_ROOT));
    for (uint32_t i = 0; i < writer->directory_count; i++) {
        uint32_t directory = writer->directories[i];
        const struct tree_inode *parent = tree_inode_of(writer->tree, directory);
        write_directory(writer, directory);
        for (uint32_t c = 0; c < parent->child_count + 2; c++) {
            uint32_t child = writer->children[parent->children + c].name;
            if (child == NAME_DOT || child == NAME_DOTDOT) continue;
            const struct tree_inode *inode = tree_inode_of(writer->tree, child);
            if (inode->number != written + 1) continue; /* a further name of one written before */
            written++;
            write_inode(writer, inode);
            if (S_ISLNK(erofs_mode_of(inode))) write_symlink(writer, inode);
        }
    }
}

static int write_image(struct erofs_writer *writer, struct buffer *ret, struct error **error)
{
    size_t start = ret->length;
    uint64_t size = (writer->first_outside + writer->outside_blocks) * EROFS_BLOCK;
    if (buffer_append_zeros(ret, size + writer->sparse_records * SPARSE_MAP_RECORD_BYTES) < 0)
        return error_set_memory(error);
    writer->image = ret->data + start;
    writer->next_record = writer->image + size;
    if (write_devices(writer, error) < 0 || write_superblock(writer, size, error) < 0) return -1;
    write_all(writer);
    return 0;
}

int erofs_write(struct file_tree *tree, const struct merge_layer *layers, size_t count,
                struct buffer *ret, struct error **error)
{
    struct erofs_writer writer = { .tree = tree, .layers = layers, .layer_count = (uint32_t)count };
    int status = erofs_measure(&writer, error);
    if (status == 0) status = erofs_place_all(&writer, error);
    if (status == 0) status = write_image(&writer, ret, error);
    erofs_writer_free(&writer);
    return status;
}
