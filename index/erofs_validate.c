/*
 * Demands exactly what index/erofs_writer.c makes, by walking the image in the
 * order in which it was laid out and computing where each inode must be. So no
 * inode can lie in another's data, no directory can be in two places, and most
 * of the walk is one pass over the memory from front to back.
 */
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

#include "index/erofs-internal.h"

struct directory {
    uint64_t nid, parent;
};

struct validator {
    const struct erofs_image *image;
    const uint64_t *device_lengths;

    uint64_t cursor;         /* behind the last inode seen */
    uint64_t inode_count;    /* seen */
    uint64_t first_outside;  /* block; told by the first inode that has any; 0: none so far */
    uint64_t outside_blocks; /* seen */
    struct erofs_sparse_check sparse;
    bool saw_xattrs, saw_acls;

    /* For each slot that starts an inode with several names: how many are still to come. */
    uint32_t *links_left;
    uint64_t links_missing; /* their sum */

    struct directory *stack; /* still to be walked */
    size_t depth, capacity;

    uint64_t nid; /* for messages */
    struct error **error;
};

static int refuse(struct validator *validator, const char *why)
{
    return error_set(validator->error, ERROR_INVALID,
                     "metadata image: inode %llu: %s; it is damaged or not sluice's",
                     (unsigned long long)validator->nid, why);
}

static bool all_zero(const uint8_t *bytes, uint64_t length)
{
    uint8_t any = 0;
    for (uint64_t i = 0; i < length; i++)
        any |= bytes[i];
    return any == 0;
}

static int check_devices(struct validator *validator, uint32_t device_count)
{
    const struct erofs_image *image = validator->image;
    if (device_count != image->device_count)
        return error_set(validator->error, ERROR_INVALID,
                         "metadata image: it has %u devices where the image has %u layers",
                         image->device_count, device_count);
    for (uint32_t i = 0; i < device_count; i++) {
        uint64_t length = 0, expected = validator->device_lengths[i];
        struct digest tag;
        if (erofs_image_device(image, i + 1, &length, &tag, validator->error) < 0) return -1;
        if (expected > length || length - expected >= EROFS_BLOCK)
            return error_set(validator->error, ERROR_INVALID,
                             "metadata image: device %u has %llu bytes where the layer has %llu",
                             i + 1, (unsigned long long)length, (unsigned long long)expected);
    }
    return 0;
}

static int compare_suffixes(const struct erofs_xattr *left, const struct erofs_xattr *right)
{
    uint32_t shorter =
        left->suffix_length < right->suffix_length ? left->suffix_length : right->suffix_length;
    int order = memcmp(left->suffix, right->suffix, shorter);
    if (order) return order;
    return left->suffix_length < right->suffix_length ? -1
                                                      : left->suffix_length > right->suffix_length;
}

static int check_xattr(struct validator *validator, const struct erofs_xattr *xattr,
                       const struct erofs_xattr *previous, const uint8_t *end)
{
    if (xattr->prefix->whole != (xattr->suffix_length == 0) ||
        xattr->prefix->length + xattr->suffix_length > XATTR_NAME_MAX ||
        memchr(xattr->suffix, 0, xattr->suffix_length))
        return refuse(validator, "an attribute has an impossible name");
    if (strcmp(xattr->prefix->text, "trusted.") == 0 && xattr->suffix_length >= 8 &&
        memcmp(xattr->suffix, "overlay.", 8) == 0)
        return refuse(validator, "it has an attribute that overlayfs would obey");
    if (previous->prefix &&
        (xattr->prefix < previous->prefix ||
         (xattr->prefix == previous->prefix && compare_suffixes(previous, xattr) >= 0)))
        return refuse(validator, "its attributes are out of order");
    const uint8_t *used = xattr->value + xattr->value_length;
    if (!all_zero(used, (uint64_t)(end - used)))
        return refuse(validator, "there are bytes between its attributes");
    return 0;
}

static int check_xattrs(struct validator *validator, const struct erofs_inode *inode)
{
    struct erofs_xattr_walk walk;
    struct erofs_xattr xattr, previous = { 0 };
    int status;
    if (inode->xattr_size == 0) return 0;
    validator->saw_xattrs = true;
    if (erofs_xattr_walk_start(validator->image, inode, &walk) < 0 || walk.left == 0)
        return refuse(validator, "its attributes are malformed");
    if (!all_zero(walk.next - sizeof(struct erofs_disk_xattrs), sizeof(struct erofs_disk_xattrs)))
        return refuse(validator, "its attributes' header is not as sluice writes it");
    while ((status = erofs_xattr_walk_next(&walk, &xattr)) > 0) {
        if (check_xattr(validator, &xattr, &previous, walk.next) < 0) return -1;
        if (strncmp(xattr.prefix->text, "system.posix_acl_", 17) == 0) validator->saw_acls = true;
        previous = xattr;
    }
    return status < 0 ? refuse(validator, "its attributes are malformed") : 0;
}

static int check_size(struct validator *validator, const struct erofs_inode *inode)
{
    uint64_t least = 0, most = 0;
    switch (inode->mode & S_IFMT) {
    case S_IFREG:
        /* Of others than sparse files, check_chunks() knows more. */
        most = EROFS_SPARSE_SIZE_MAX;
        break;
    case S_IFDIR:
        least = 2 * sizeof(struct erofs_disk_dirent) + 3; /* "." and ".." */
        most = validator->image->size;
        break;
    case S_IFLNK:
        least = 1;
        most = 4095;
        break;
    }
    if (inode->size < least || inode->size > most)
        return refuse(validator, "its size is impossible");
    return 0;
}

static int check_fields(struct validator *validator, const struct erofs_inode *inode)
{
    const struct erofs_disk_inode *disk =
        (const void *)(validator->image->data + inode->header_offset);
    if (erofs_file_type(inode->mode) == 0) return refuse(validator, "its file type is unknown");
    if (S_ISLNK(inode->mode) && (inode->mode & 07777) != 0777)
        return refuse(validator, "a symbolic link has an impossible mode");
    if (le32toh(disk->number) != validator->inode_count + 1)
        return refuse(validator, "its number is out of order");
    if (disk->reserved != 0 || !all_zero(disk->reserved2, sizeof disk->reserved2))
        return refuse(validator, "a reserved field is in use");
    if (inode->mtime_nsec >= 1000000000) return refuse(validator, "its time is malformed");
    if (inode->link_count == 0) return refuse(validator, "it has no links");
    return check_size(validator, inode);
}

/* Data blocks outside of inodes are in the order of the inodes, without gaps. */
static int check_outside(struct validator *validator, const struct erofs_inode *inode,
                         const struct erofs_placement *place)
{
    if (place->blocks == 0)
        return inode->start_block == 0 ? 0
                                       : refuse(validator, "it has a block that it does not need");
    if (validator->first_outside == 0) validator->first_outside = inode->start_block;
    if (inode->start_block == 0 ||
        inode->start_block != validator->first_outside + validator->outside_blocks)
        return refuse(validator, "its data is out of place");
    if (!erofs_bytes(validator->image, (uint64_t)inode->start_block * EROFS_BLOCK,
                     place->blocks * EROFS_BLOCK))
        return refuse(validator, "its data lies outside of the image");
    validator->outside_blocks += place->blocks;
    return 0;
}

static int check_symlink(struct validator *validator, const struct erofs_inode *inode,
                         const struct erofs_placement *place)
{
    const char *target;
    size_t length;
    if (check_outside(validator, inode, place) < 0) return -1;
    if (erofs_image_symlink(validator->image, inode, &target, &length) < 0)
        return refuse(validator, "its target is malformed");
    if (memchr(target, 0, length)) return refuse(validator, "its target holds a NUL");
    if (place->blocks &&
        !all_zero((const uint8_t *)target + length, place->blocks * EROFS_BLOCK - length))
        return refuse(validator, "there are bytes behind its target");
    return 0;
}

static int check_chunks(struct validator *validator, const struct erofs_inode *inode,
                        const struct erofs_placement *place)
{
    const struct erofs_disk_chunk *chunks = (const void *)(validator->image->data + place->payload);
    bool sparse = erofs_chunks_are_sparse(validator->image, chunks);
    unsigned bits = sparse ? erofs_sparse_chunk_bits(inode->size) : erofs_chunk_bits(inode->size);
    if (inode->start_block != (bits | EROFS_CHUNK_INDEXES))
        return refuse(validator, "its chunk format is not as sluice writes it");
    if (sparse) {
        const char *fault = erofs_sparse_check(&validator->sparse, inode->size, chunks);
        return fault ? refuse(validator, fault) : 0;
    }
    uint64_t count = erofs_chunk_count(inode->size, bits), first = le32toh(chunks[0].block);
    uint16_t device = le16toh(chunks[0].device);
    if (device == 0 || device > validator->image->device_count)
        return refuse(validator, "its data is on a device that does not exist");
    uint64_t length = validator->device_lengths[device - 1];
    if (inode->size > length || first * EROFS_BLOCK > length - inode->size)
        return refuse(validator, "its data lies behind the end of the layer");
    for (uint64_t i = 0; i < count; i++)
        if (chunks[i].advise != 0 || le16toh(chunks[i].device) != device ||
            le32toh(chunks[i].block) != first + (i << bits))
            return refuse(validator, "its chunks are not as sluice writes them");
    return 0;
}

static int check_data(struct validator *validator, const struct erofs_inode *inode,
                      const struct erofs_placement *place)
{
    switch (inode->mode & S_IFMT) {
    case S_IFDIR:
        return check_outside(validator, inode, place);
    case S_IFLNK:
        return check_symlink(validator, inode, place);
    case S_IFCHR:
    case S_IFBLK:
        return 0; /* any device number can be */
    case S_IFREG:
        if (inode->size > 0) return check_chunks(validator, inode, place);
        /* fall through */
    default:
        return inode->start_block == 0 ? 0 : refuse(validator, "a reserved field is in use");
    }
}

/* The next inode in the order of the image. */
static int check_inode(struct validator *validator, uint64_t nid, struct erofs_inode *inode)
{
    const uint8_t *data = validator->image->data;
    validator->nid = nid;
    if (erofs_image_inode(validator->image, nid, inode) < 0)
        return refuse(validator, "it is not as sluice writes it");
    if (check_fields(validator, inode) < 0) return -1;
    struct erofs_placement place =
        erofs_place(validator->cursor, inode->mode, inode->xattr_size, inode->size,
                    inode->start_block & EROFS_CHUNK_BITS_MAX);
    if (place.offset != inode->header_offset || (unsigned)place.layout != inode->layout)
        return refuse(validator, "it is out of place");
    if (place.end > validator->image->size)
        return refuse(validator, "it reaches beyond the end of the image");
    uint64_t behind = inode->header_offset + sizeof(struct erofs_disk_inode) + inode->xattr_size;
    if (!all_zero(data + validator->cursor, place.offset - validator->cursor) ||
        !all_zero(data + behind, place.payload - behind))
        return refuse(validator, "there are bytes where there should be none");
    if (check_xattrs(validator, inode) < 0) return -1;
    if (check_data(validator, inode, &place) < 0) return -1;
    validator->cursor = place.end;
    validator->inode_count++;
    if (!S_ISDIR(inode->mode) && inode->link_count > 1) {
        validator->links_left[nid] = inode->link_count - 1;
        validator->links_missing += inode->link_count - 1;
    }
    return 0;
}

static int push_directory(struct validator *validator, uint64_t nid, uint64_t parent)
{
    if (validator->depth == validator->capacity) {
        size_t capacity = validator->capacity ? validator->capacity * 2 : 256;
        struct directory *stack = reallocarray(validator->stack, capacity, sizeof *stack);
        if (!stack) return error_set_memory(validator->error);
        validator->stack = stack;
        validator->capacity = capacity;
    }
    validator->stack[validator->depth++] = (struct directory){ nid, parent };
    return 0;
}

/* One directory while its entries are gone through. */
struct listing {
    struct directory self;
    const uint8_t *name; /* the one before */
    uint32_t name_length;
    uint32_t room_left; /* in the block before */
    bool saw_dot, saw_dotdot;
    uint32_t subdirectories;
};

static int check_name(struct validator *validator, struct listing *listing, const uint8_t *name,
                      uint32_t length)
{
    uint32_t shorter = length < listing->name_length ? length : listing->name_length;
    int order = shorter ? memcmp(listing->name, name, shorter) : 0;
    if (order > 0 || (order == 0 && length <= listing->name_length))
        return refuse(validator, "its names are out of order");
    if (memchr(name, '/', length) || memchr(name, 0, length))
        return refuse(validator, "it has an impossible name");
    listing->name = name;
    listing->name_length = length;
    return 0;
}

static int check_child(struct validator *validator, struct listing *listing,
                       const struct erofs_disk_dirent *dirent)
{
    uint64_t nid = le64toh(dirent->nid);
    struct erofs_inode child;
    if (nid >= validator->image->size / EROFS_SLOT)
        return refuse(validator, "an entry leads out of the image");
    if (nid * EROFS_SLOT >= validator->cursor) {
        if (check_inode(validator, nid, &child) < 0) return -1;
        if (S_ISDIR(child.mode)) {
            listing->subdirectories++;
            if (push_directory(validator, nid, listing->self.nid) < 0) return -1;
        }
    } else {
        if (validator->links_left[nid] == 0 || erofs_image_inode(validator->image, nid, &child) < 0)
            return refuse(validator, "an entry leads to no inode, or to one with too many names");
        validator->links_left[nid]--;
        validator->links_missing--;
    }
    validator->nid = listing->self.nid;
    if (dirent->type != erofs_file_type(child.mode))
        return refuse(validator, "an entry tells a wrong file type");
    return 0;
}

static int check_entry(struct validator *validator, struct listing *listing,
                       const struct erofs_disk_dirent *dirent, const uint8_t *name, uint32_t length)
{
    if (dirent->reserved != 0) return refuse(validator, "a reserved field is in use");
    if (check_name(validator, listing, name, length) < 0) return -1;
    bool dot = length == 1 && name[0] == '.';
    bool dotdot = length == 2 && name[0] == '.' && name[1] == '.';
    if (!dot && !dotdot) return check_child(validator, listing, dirent);
    uint64_t expected = dot ? listing->self.nid : listing->self.parent;
    if (le64toh(dirent->nid) != expected || dirent->type != erofs_file_type(S_IFDIR))
        return refuse(validator, "its \".\" or \"..\" leads elsewhere");
    listing->saw_dot |= dot;
    listing->saw_dotdot |= dotdot;
    return 0;
}

/* Names follow the records without gaps; only in the last block they reach its end. */
static int check_block(struct validator *validator, struct listing *listing, const uint8_t *block,
                       uint32_t block_length, bool last)
{
    const struct erofs_disk_dirent *dirents = (const void *)block;
    if (block_length <= sizeof *dirents) return refuse(validator, "it is cut short");
    uint32_t names = le16toh(dirents[0].name_offset), start = names;
    uint32_t count = names / (uint32_t)sizeof *dirents;
    if (count == 0 || names % sizeof *dirents || names >= block_length)
        return refuse(validator, "its entries are malformed");
    for (uint32_t i = 0; i < count; i++) {
        uint32_t end = block_length;
        if (i + 1 < count)
            end = le16toh(dirents[i + 1].name_offset);
        else if (!last)
            end = start + (uint32_t)strnlen((const char *)block + start, block_length - start);
        if (end <= start || end > block_length || end - start > EROFS_NAME_MAX)
            return refuse(validator, "its names are malformed");
        if (i == 0 && sizeof *dirents + (end - start) <= listing->room_left)
            return refuse(validator, "its blocks are not as full as they can be");
        if (check_entry(validator, listing, &dirents[i], block + start, end - start) < 0) return -1;
        start = end;
    }
    if (!all_zero(block + start, block_length - start))
        return refuse(validator, "there are bytes behind its names");
    listing->room_left = block_length - start;
    return 0;
}

/* The stack gives the first subdirectory first. */
static void reverse(struct directory *directories, size_t count)
{
    for (size_t i = 0; i < count / 2; i++) {
        struct directory other = directories[i];
        directories[i] = directories[count - 1 - i];
        directories[count - 1 - i] = other;
    }
}

static int check_directory(struct validator *validator, struct directory self)
{
    const struct erofs_image *image = validator->image;
    struct listing listing = { .self = self };
    struct erofs_inode inode;
    size_t below = validator->depth;
    validator->nid = self.nid;
    if (erofs_image_inode(image, self.nid, &inode) < 0) return refuse(validator, "it has changed");
    struct erofs_placement place =
        erofs_place(inode.header_offset, inode.mode, inode.xattr_size, inode.size, 0);
    for (uint64_t at = 0; at < inode.size; at += EROFS_BLOCK) {
        uint64_t left = inode.size - at, number = at / EROFS_BLOCK;
        uint32_t length = left < EROFS_BLOCK ? (uint32_t)left : EROFS_BLOCK;
        const uint8_t *block =
            number < place.blocks
                ? erofs_bytes(image, (inode.start_block + number) * EROFS_BLOCK, EROFS_BLOCK)
                : erofs_bytes(image, place.payload, length);
        if (!block) return refuse(validator, "it has changed");
        if (check_block(validator, &listing, block, length, left <= EROFS_BLOCK) < 0) return -1;
        if (number < place.blocks && !all_zero(block + length, EROFS_BLOCK - length))
            return refuse(validator, "there are bytes behind its names");
    }
    if (!listing.saw_dot || !listing.saw_dotdot)
        return refuse(validator, "it lacks \".\" or \"..\"");
    if (inode.link_count != 2 + (uint64_t)listing.subdirectories)
        return refuse(validator, "its link count is wrong");
    reverse(validator->stack + below, validator->depth - below);
    return 0;
}

static int check_end(struct validator *validator)
{
    const struct erofs_image *image = validator->image;
    uint64_t inodes_end = erofs_round_up(validator->cursor, EROFS_BLOCK);
    validator->nid = image->root_nid;
    if (validator->links_missing > 0) return refuse(validator, "names of hard links are missing");
    if (validator->inode_count != image->inode_count)
        return refuse(validator, "the number of inodes is wrong");
    if (validator->sparse.blocks != image->sparse_blocks ||
        validator->sparse.records != image->sparse_map.count)
        return refuse(validator,
                      "the sparse device or its map is not as long as sparse files need");
    if ((validator->outside_blocks > 0 && validator->first_outside * EROFS_BLOCK != inodes_end) ||
        inodes_end + validator->outside_blocks * EROFS_BLOCK != image->size)
        return refuse(validator, "the parts of the image do not add up");
    if (!all_zero(image->data + validator->cursor, inodes_end - validator->cursor))
        return refuse(validator, "there are bytes behind the last inode");
    return 0;
}

static int check_tree(struct validator *validator)
{
    const struct erofs_image *image = validator->image;
    struct erofs_inode root;
    uint32_t devices = image->device_count + (image->sparse_device ? 1 : 0);
    validator->cursor = image->device_table_offset + devices * sizeof(struct erofs_disk_device);
    if (check_inode(validator, image->root_nid, &root) < 0) return -1;
    if (!S_ISDIR(root.mode)) return refuse(validator, "the root is not a directory");
    if (push_directory(validator, image->root_nid, image->root_nid) < 0) return -1;
    while (validator->depth > 0)
        if (check_directory(validator, validator->stack[--validator->depth]) < 0) return -1;
    return check_end(validator);
}

int erofs_image_validate(struct erofs_image *image, const uint64_t *device_lengths,
                         uint32_t device_count, struct error **error)
{
    struct validator validator = { .image = image,
                                   .device_lengths = device_lengths,
                                   .sparse = { .image = image, .layer_lengths = device_lengths },
                                   .error = error };
    if (check_devices(&validator, device_count) < 0) return -1;
    /* Not touched, and so no memory, where there are no hard links. */
    validator.links_left = calloc(image->size / EROFS_SLOT, sizeof *validator.links_left);
    if (!validator.links_left) return error_set_memory(error);
    int status = check_tree(&validator);
    image->has_xattrs = validator.saw_xattrs;
    image->has_acls = validator.saw_acls;
    free(validator.links_left);
    free(validator.stack);
    return status;
}
