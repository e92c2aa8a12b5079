/*
 * What an image will consist of, and where.
 *
 * Places are in the order of a walk: the root, then for each directory all of
 * its children in the order of their names, then its first subdirectory and all
 * below that, then the next. So a directory's inodes lie together, and so does
 * a subtree. Blocks of directories and long link targets follow behind the
 * inodes, in the order of the inodes they belong to.
 */
#include <stdlib.h>
#include <string.h>

#include "index/artifact.h"
#include "index/erofs-writer-internal.h"

const char *erofs_child_text(const struct erofs_writer *writer, uint32_t name, size_t *ret_length)
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
    const struct erofs_child *a = left, *b = right;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    size_t a_length, b_length;
    const char *a_text = erofs_child_text(context, a->name, &a_length);
    const char *b_text = erofs_child_text(context, b->name, &b_length);
    int order = memcmp(a_text, b_text, a_length < b_length ? a_length : b_length);
    if (order) return order;
    return a_length < b_length ? -1 : a_length > b_length;
}

static void add_child(struct erofs_writer *writer, uint32_t name)
{
    size_t length;
    const char *text = erofs_child_text(writer, name, &length);
    writer->children[writer->child_count++] = (struct erofs_child){ sort_key(text, length), name };
}

static void sort_children(struct erofs_writer *writer, struct tree_inode *directory)
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

uint32_t erofs_fill_block(const struct erofs_writer *writer, uint32_t first, uint32_t end,
                          uint32_t *ret_bytes)
{
    uint32_t bytes = 0, at = first;
    for (; at < end; at++) {
        size_t length;
        erofs_child_text(writer, writer->children[at].name, &length);
        uint32_t needed = (uint32_t)(sizeof(struct erofs_disk_dirent) + length);
        if (bytes + needed > EROFS_BLOCK) break;
        bytes += needed;
    }
    *ret_bytes = bytes;
    return at - first;
}

static uint64_t directory_size(const struct erofs_writer *writer,
                               const struct tree_inode *directory)
{
    uint32_t at = directory->children, end = at + directory->child_count + 2, bytes = 0;
    uint64_t size = 0;
    while (at < end) {
        at += erofs_fill_block(writer, at, end, &bytes);
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

static int measure_sparse(struct erofs_writer *writer, const struct tree_inode *inode,
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

int erofs_measure(struct erofs_writer *writer, struct error **error)
{
    struct file_tree *tree = writer->tree;
    uint32_t directories = 0;
    for (uint32_t i = 0; i < tree->inode_count; i++)
        if (tree->inodes[i].name_count && tree_inode_is_directory(&tree->inodes[i])) directories++;
    writer->children = reallocarray(NULL, (size_t)tree->live_names + 2 * (size_t)directories,
                                    sizeof(struct erofs_child));
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

uint32_t erofs_mode_of(const struct tree_inode *inode)
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

unsigned erofs_chunk_bits_of(const struct tree_inode *inode)
{
    if (inode->size == 0) return 0;
    return inode->entry && inode->entry->sparse ? erofs_sparse_chunk_bits(inode->size)
                                                : erofs_chunk_bits(inode->size);
}

struct erofs_placement erofs_place_at(const struct tree_inode *inode, uint64_t cursor)
{
    return erofs_place(cursor, erofs_mode_of(inode), inode->xattr_bytes, inode->size,
                       erofs_chunk_bits_of(inode));
}

static void place_inode(struct erofs_writer *writer, struct tree_inode *inode)
{
    struct erofs_placement place = erofs_place_at(inode, writer->cursor);
    inode->number = ++writer->placed;
    inode->offset = place.offset;
    inode->data_block = (uint32_t)writer->outside_blocks;
    writer->outside_blocks += place.blocks;
    writer->cursor = place.end;
}

static void place_children(struct erofs_writer *writer, const struct tree_inode *directory,
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

uint32_t erofs_device_count(const struct erofs_writer *writer)
{
    return writer->layer_count + (writer->sparse_blocks > 0 ? 1 : 0);
}

int erofs_place_all(struct erofs_writer *writer, struct error **error)
{
    uint32_t depth = 0;
    writer->cursor =
        EROFS_DEVICE_TABLE_OFFSET + erofs_device_count(writer) * sizeof(struct erofs_disk_device);
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
