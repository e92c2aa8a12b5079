/*
 * Three steps: sort and measure, give each inode its place, write.
 *
 * Places are in the order of a walk: the root, then for each directory all of
 * its children in the order of their names, then its first subdirectory and all
 * below that, then the next. So a directory's inodes lie together, and so does
 * a subtree. Blocks of directories and long link targets follow behind the
 * inodes, in the order of the inodes they belong to.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "index/artifact.h"
#include "index/erofs-internal.h"

/* A directory's own entries among its children. */
#define NAME_DOT    (UINT32_MAX - 1)
#define NAME_DOTDOT (UINT32_MAX - 2)

struct child {
    uint64_t key; /* the first eight bytes, so that comparing rarely needs the name */
    uint32_t name;
};

struct writer {
    struct file_tree *tree;
    const struct merge_layer *layers;
    uint32_t layer_count;
    struct child *children; /* of all directories, each one's sorted */
    uint32_t child_count;
    uint32_t *directories; /* names, in the order of the walk */
    uint32_t directory_count;
    uint32_t *stack;
    uint32_t placed; /* inodes */
    uint64_t cursor; /* behind the last placed inode */
    uint64_t outside_blocks;
    uint32_t first_outside;
    uint64_t sparse_blocks;  /* of the sparse device; 0: there is none */
    uint64_t sparse_records; /* of the sparse map */
    uint8_t *image;
    uint64_t next_sparse_block;
    uint8_t *next_record; /* of the sparse map, behind the image */
};

static void writer_free(struct writer *writer)
{
    free(writer->children);
    free(writer->directories);
    free(writer->stack);
}

static const char *child_text(const struct writer *writer, uint32_t name, size_t *ret_length)
{
    if (name == NAME_DOT || name == NAME_DOTDOT) {
        *ret_length = name == NAME_DOT ? 1 : 2;
        return "..";
    }
    *ret_length = writer->tree->names[name].length;
    return writer->tree->names[name].text;
}

/* Names hold no NUL, so padding with it keeps the order. */
static uint64_t sort_key(const char *text, size_t length)
{
    uint64_t key = 0;
    memcpy(&key, text, length < 8 ? length : 8);
    return be64toh(key);
}

static int compare_children(const void *left, const void *right, void *context)
{
    const struct child *a = left, *b = right;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    size_t a_length, b_length;
    const char *a_text = child_text(context, a->name, &a_length);
    const char *b_text = child_text(context, b->name, &b_length);
    int order = memcmp(a_text, b_text, a_length < b_length ? a_length : b_length);
    if (order) return order;
    return a_length < b_length ? -1 : a_length > b_length;
}

static void add_child(struct writer *writer, uint32_t name)
{
    size_t length;
    const char *text = child_text(writer, name, &length);
    writer->children[writer->child_count++] = (struct child){ sort_key(text, length), name };
}

static void sort_children(struct writer *writer, struct tree_inode *directory)
{
    directory->children = writer->child_count;
    add_child(writer, NAME_DOT);
    add_child(writer, NAME_DOTDOT);
    for (uint32_t name = directory->first_child; name != TREE_NONE;
         name = writer->tree->names[name].next)
        add_child(writer, name);
    qsort_r(writer->children + directory->children, writer->child_count - directory->children,
            sizeof *writer->children, compare_children, writer);
}

/* How many children from `first` on fit in one block, and the bytes they take. */
static uint32_t fill_block(const struct writer *writer, uint32_t first, uint32_t end,
                           uint32_t *ret_bytes)
{
    uint32_t bytes = 0, at = first;
    for (; at < end; at++) {
        size_t length;
        child_text(writer, writer->children[at].name, &length);
        uint32_t needed = (uint32_t)(sizeof(struct erofs_disk_dirent) + length);
        if (bytes + needed > EROFS_BLOCK) break;
        bytes += needed;
    }
    *ret_bytes = bytes;
    return at - first;
}

static uint64_t directory_size(const struct writer *writer, const struct tree_inode *directory)
{
    uint32_t at = directory->children, end = at + directory->child_count + 2, bytes = 0;
    uint64_t size = 0;
    while (at < end) {
        at += fill_block(writer, at, end, &bytes);
        size += at < end ? EROFS_BLOCK : bytes;
    }
    return size;
}

/* What the attributes take in the inode; attributes of namespaces that EROFS lacks are left out. */
static int measure_xattrs(struct tree_inode *inode, struct error **error)
{
    const struct entry *entry = inode->entry;
    uint64_t bytes = 0;
    for (uint32_t i = 0; entry && i < entry->xattr_count; i++) {
        const struct entry_xattr *xattr = &entry->xattrs[i];
        const struct erofs_xattr_prefix *prefix = erofs_xattr_prefix_of(xattr->name);
        if (!prefix) continue;
        bytes += erofs_round_up(sizeof(struct erofs_disk_xattr) + strlen(xattr->name) -
                                    prefix->length + xattr->value_length,
                                4);
    }
    if (bytes > 0) bytes += sizeof(struct erofs_disk_xattrs);
    if (bytes > EROFS_XATTR_BYTES_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "entry \"%.300s\": its attributes take more than %u bytes", entry->path,
                         EROFS_XATTR_BYTES_MAX);
    inode->xattr_bytes = (uint32_t)bytes;
    return 0;
}

static int measure_sparse(struct writer *writer, const struct tree_inode *inode,
                          struct error **error)
{
    if (inode->size > EROFS_SPARSE_SIZE_MAX)
        return error_set(error, ERROR_UNSUPPORTED,
                         "entry \"%.300s\": the sparse file is larger than 1 PiB",
                         inode->entry->path);
    writer->sparse_records += inode->entry->segment_count;
    writer->sparse_blocks += erofs_sparse_blocks(inode->entry);
    if (writer->sparse_blocks >= UINT32_MAX)
        return error_set(
            error, ERROR_UNSUPPORTED,
            "entry \"%.300s\": the data of sparse files up to here is spread over more than 2 TiB",
            inode->entry->path);
    return 0;
}

static int measure(struct writer *writer, struct error **error)
{
    struct file_tree *tree = writer->tree;
    uint32_t directories = 0;
    for (uint32_t i = 0; i < tree->inode_count; i++)
        if (tree->inodes[i].name_count && tree_inode_is_directory(&tree->inodes[i])) directories++;
    writer->children = reallocarray(NULL, (size_t)tree->live_names + 2 * (size_t)directories,
                                    sizeof(struct child));
    writer->directories = reallocarray(NULL, directories, sizeof(uint32_t));
    writer->stack = reallocarray(NULL, directories, sizeof(uint32_t));
    if (!writer->children || !writer->directories || !writer->stack) return error_set_memory(error);

    for (uint32_t i = 0; i < tree->inode_count; i++) {
        struct tree_inode *inode = &tree->inodes[i];
        if (!inode->name_count) continue;
        inode->number = 0;
        inode->size = 0;
        if (measure_xattrs(inode, error) < 0) return -1;
        if (tree_inode_is_directory(inode)) {
            sort_children(writer, inode);
            inode->size = directory_size(writer, inode);
        } else if (inode->entry->type == ENTRY_SYMLINK) {
            inode->size = strlen(inode->entry->target);
        } else {
            inode->size = inode->entry->size;
        }
        if (inode->entry && inode->entry->sparse && measure_sparse(writer, inode, error) < 0)
            return -1;
    }
    return 0;
}

static uint32_t mode_of(const struct tree_inode *inode)
{
    if (!inode->entry) return S_IFDIR | 0755;
    switch (inode->entry->type) {
    case ENTRY_DIRECTORY:
        return S_IFDIR | inode->entry->mode;
    case ENTRY_SYMLINK:
        return S_IFLNK | inode->entry->mode;
    case ENTRY_CHARACTER_DEVICE:
        return S_IFCHR | inode->entry->mode;
    case ENTRY_BLOCK_DEVICE:
        return S_IFBLK | inode->entry->mode;
    case ENTRY_FIFO:
        return S_IFIFO | inode->entry->mode;
    default:
        return S_IFREG | inode->entry->mode;
    }
}

static unsigned chunk_bits_of(const struct tree_inode *inode)
{
    if (inode->size == 0) return 0;
    return inode->entry && inode->entry->sparse ? erofs_sparse_chunk_bits(inode->size)
                                                : erofs_chunk_bits(inode->size);
}

static struct erofs_placement place_at(const struct tree_inode *inode, uint64_t cursor)
{
    return erofs_place(cursor, mode_of(inode), inode->xattr_bytes, inode->size,
                       chunk_bits_of(inode));
}

static void place_inode(struct writer *writer, struct tree_inode *inode)
{
    struct erofs_placement place = place_at(inode, writer->cursor);
    inode->number = ++writer->placed;
    inode->offset = place.offset;
    inode->data_block = (uint32_t)writer->outside_blocks;
    writer->outside_blocks += place.blocks;
    writer->cursor = place.end;
}

static void place_children(struct writer *writer, const struct tree_inode *directory,
                           uint32_t *depth)
{
    uint32_t start = directory->children, end = start + directory->child_count + 2;
    for (uint32_t i = start; i < end; i++) {
        uint32_t name = writer->children[i].name;
        if (name == NAME_DOT || name == NAME_DOTDOT) continue;
        struct tree_inode *inode = tree_inode_of(writer->tree, name);
        if (inode->number == 0) place_inode(writer, inode);
    }
    if (directory->directory_count == 0) return;
    for (uint32_t i = end; i-- > start;) {
        uint32_t name = writer->children[i].name;
        if (name == NAME_DOT || name == NAME_DOTDOT) continue;
        if (tree_inode_is_directory(tree_inode_of(writer->tree, name)))
            writer->stack[(*depth)++] = name;
    }
}

static uint32_t device_count(const struct writer *writer)
{
    return writer->layer_count + (writer->sparse_blocks > 0 ? 1 : 0);
}

static int place_all(struct writer *writer, struct error **error)
{
    uint32_t depth = 0;
    writer->cursor =
        EROFS_DEVICE_TABLE_OFFSET + device_count(writer) * sizeof(struct erofs_disk_device);
    place_inode(writer, tree_inode_of(writer->tree, TREE_ROOT));
    writer->stack[depth++] = TREE_ROOT;
    while (depth > 0) {
        uint32_t name = writer->stack[--depth];
        writer->directories[writer->directory_count++] = name;
        place_children(writer, tree_inode_of(writer->tree, name), &depth);
    }
    uint64_t inode_blocks = erofs_round_up(writer->cursor, EROFS_BLOCK) / EROFS_BLOCK;
    uint64_t blocks = inode_blocks + writer->outside_blocks;
    if (blocks * EROFS_BLOCK + writer->sparse_records * SPARSE_MAP_RECORD_BYTES > PART_LENGTH_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "the metadata of the image exceeds 1 GiB");
    writer->first_outside = (uint32_t)inode_blocks;
    return 0;
}

static void write_device(const struct writer *writer, uint32_t position,
                         const struct erofs_disk_device *device)
{
    memcpy(writer->image + EROFS_DEVICE_TABLE_OFFSET + position * sizeof *device, device,
           sizeof *device);
}

static int write_devices(struct writer *writer, struct error **error)
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

static int write_superblock(struct writer *writer, uint64_t size, struct error **error)
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
        .device_count = htole16((uint16_t)device_count(writer)),
        .device_table_slot =
            htole16(EROFS_DEVICE_TABLE_OFFSET / (uint16_t)sizeof(struct erofs_disk_device)),
    };
    if (erofs_uuid_of(writer->image + EROFS_DEVICE_TABLE_OFFSET, device_count(writer), super.uuid) <
        0)
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

static void write_sparse(struct writer *writer, uint8_t *at, const struct tree_inode *inode)
{
    const struct entry *entry = inode->entry;
    erofs_sparse_write(entry, inode->layer, (uint16_t)device_count(writer),
                       (uint32_t)writer->next_sparse_block, (void *)at, writer->next_record);
    writer->next_record += (size_t)entry->segment_count * SPARSE_MAP_RECORD_BYTES;
    writer->next_sparse_block += erofs_sparse_blocks(entry);
}

static void write_chunks(uint8_t *at, const struct tree_inode *inode)
{
    unsigned bits = chunk_bits_of(inode);
    uint64_t count = erofs_chunk_count(inode->size, bits);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t block = inode->entry->data_offset / EROFS_BLOCK + (i << bits);
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

static uint32_t inode_place(const struct writer *writer, const struct tree_inode *inode,
                            const struct erofs_placement *place)
{
    const struct entry *entry = inode->entry;
    if (place->layout == EROFS_CHUNKED) return chunk_bits_of(inode) | EROFS_CHUNK_INDEXES;
    if (place->blocks) return writer->first_outside + inode->data_block;
    if (entry && (entry->type == ENTRY_CHARACTER_DEVICE || entry->type == ENTRY_BLOCK_DEVICE))
        return encode_device(entry->device_major, entry->device_minor);
    return 0;
}

static void write_inode(struct writer *writer, const struct tree_inode *inode)
{
    static const struct entry implied = { .mode = 0755 };
    const struct entry *entry = inode->entry ? inode->entry : &implied;
    uint32_t mode = mode_of(inode);
    struct erofs_placement place = place_at(inode, inode->offset);
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
        write_sparse(writer, writer->image + place.payload, inode);
    else
        write_chunks(writer->image + place.payload, inode);
}

/* Where block `number` of a directory's or link target's data goes. */
static uint8_t *data_block(const struct writer *writer, const struct tree_inode *inode,
                           uint64_t number)
{
    struct erofs_placement place = place_at(inode, inode->offset);
    if (number >= place.blocks) return writer->image + place.payload;
    return writer->image + (writer->first_outside + inode->data_block + number) * EROFS_BLOCK;
}

static void write_symlink(struct writer *writer, const struct tree_inode *inode)
{
    for (uint64_t at = 0; at < inode->size; at += EROFS_BLOCK) {
        uint64_t left = inode->size - at;
        memcpy(data_block(writer, inode, at / EROFS_BLOCK), inode->entry->target + at,
               left < EROFS_BLOCK ? left : EROFS_BLOCK);
    }
}

static const struct tree_inode *child_inode(const struct writer *writer, uint32_t directory,
                                            uint32_t child)
{
    uint32_t name = child;
    if (child == NAME_DOT) name = directory;
    if (child == NAME_DOTDOT)
        name = directory == TREE_ROOT ? TREE_ROOT : writer->tree->names[directory].parent;
    return tree_inode_of(writer->tree, name);
}

static void write_directory_block(const struct writer *writer, uint32_t directory, uint32_t first,
                                  uint32_t count, uint8_t *block)
{
    size_t name_offset = count * sizeof(struct erofs_disk_dirent);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t child = writer->children[first + i].name;
        const struct tree_inode *inode = child_inode(writer, directory, child);
        struct erofs_disk_dirent dirent = { .nid = htole64(inode->offset / EROFS_SLOT),
                                            .name_offset = htole16((uint16_t)name_offset),
                                            .type = erofs_file_type(mode_of(inode)) };
        size_t length;
        const char *text = child_text(writer, child, &length);
        memcpy(block + i * sizeof dirent, &dirent, sizeof dirent);
        memcpy(block + name_offset, text, length);
        name_offset += length;
    }
}

static void write_directory(const struct writer *writer, uint32_t directory)
{
    const struct tree_inode *inode = tree_inode_of(writer->tree, directory);
    uint32_t at = inode->children, end = at + inode->child_count + 2, bytes;
    for (uint64_t number = 0; at < end; number++) {
        uint32_t count = fill_block(writer, at, end, &bytes);
        write_directory_block(writer, directory, at, count, data_block(writer, inode, number));
        at += count;
    }
}

static void write_all(struct writer *writer)
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
            if (S_ISLNK(mode_of(inode))) write_symlink(writer, inode);
        }
    }
}

static int write_image(struct writer *writer, struct buffer *ret, struct error **error)
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
    struct writer writer = { .tree = tree, .layers = layers, .layer_count = (uint32_t)count };
    int status = measure(&writer, error);
    if (status == 0) status = place_all(&writer, error);
    if (status == 0) status = write_image(&writer, ret, error);
    writer_free(&writer);
    return status;
}
