#include "index/erofs_image.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "index/erofs-internal.h"

static int refuse(struct error **error, const char *why)
{
    return error_set(error, ERROR_INVALID, "metadata image: %s; it is damaged or not sluice's",
                     why);
}

static bool superblock_is_ours(const struct erofs_disk_superblock *super)
{
    static const uint8_t name[16] = EROFS_VOLUME_NAME;
    struct erofs_disk_superblock expected = {
        .magic = htole32(EROFS_MAGIC),
        .feature_compatible = htole32(EROFS_COMPATIBLE),
        .block_bits = EROFS_BLOCK_BITS,
        .root_nid = super->root_nid,
        .inode_count = super->inode_count,
        .blocks = super->blocks,
        .feature_incompatible = htole32(EROFS_INCOMPATIBLE),
        .device_count = super->device_count,
        .device_table_slot =
            htole16(EROFS_DEVICE_TABLE_OFFSET / (uint16_t)sizeof(struct erofs_disk_device)),
    };
    memcpy(expected.uuid, super->uuid, sizeof expected.uuid);
    memcpy(expected.volume_name, name, sizeof name);
    return memcmp(&expected, super, sizeof expected) == 0;
}

static int check_superblock(const struct erofs_image *image,
                            const struct erofs_disk_superblock *super, struct error **error)
{
    static const uint8_t zeros[EROFS_SUPERBLOCK_OFFSET];
    if (le32toh(super->magic) != EROFS_MAGIC) return refuse(error, "it has no EROFS superblock");
    if (!superblock_is_ours(super))
        return refuse(error, "the superblock is not as sluice writes it");
    if (memcmp(image->data, zeros, sizeof zeros) != 0)
        return refuse(error, "there are bytes before the superblock");
    return 0;
}

static int parse_tag(const struct erofs_disk_device *device, struct digest *ret)
{
    char text[DIGEST_TEXT_SIZE] = "sha256:";
    memcpy(text + 7, device->tag, sizeof device->tag);
    text[DIGEST_TEXT_SIZE - 1] = 0;
    return digest_parse(ret, text, NULL);
}

static bool is_sparse_device(const struct erofs_disk_device *device)
{
    static const uint8_t tag[sizeof device->tag] = EROFS_SPARSE_TAG;
    return memcmp(device->tag, tag, sizeof tag) == 0 && device->blocks != 0;
}

/* Layers first, then perhaps the sparse device. */
static int read_device_table(struct erofs_image *image, const struct erofs_disk_superblock *super,
                             struct error **error)
{
    static const uint8_t zeros[sizeof((struct erofs_disk_device *)NULL)->reserved];
    uint32_t count = le16toh(super->device_count);
    const struct erofs_disk_device *devices =
        erofs_bytes(image, image->device_table_offset, count * sizeof *devices);
    struct digest digest;
    uint8_t uuid[16];
    if (!devices) return refuse(error, "the device table lies outside");
    if (erofs_uuid_of(devices, count, uuid) < 0) return error_set_memory(error);
    if (memcmp(uuid, super->uuid, sizeof uuid) != 0)
        return refuse(error, "its UUID does not belong to its devices");
    image->device_count = count;
    if (count > 0 && is_sparse_device(&devices[count - 1])) {
        image->sparse_device = count;
        image->sparse_blocks = le32toh(devices[count - 1].blocks);
        image->device_count--;
    }
    if (image->device_count > EROFS_DEVICES_MAX) return refuse(error, "it has too many devices");
    for (uint32_t i = 0; i < count; i++)
        if ((i < image->device_count && parse_tag(&devices[i], &digest) < 0) ||
            devices[i].mapped_block != 0 || memcmp(devices[i].reserved, zeros, sizeof zeros) != 0)
            return refuse(error, "the device table is not as sluice writes it");
    return 0;
}

/* What follows the EROFS image is the sparse map. */
static int split_off_map(struct erofs_image *image, const struct erofs_disk_superblock *super,
                         struct error **error)
{
    uint64_t size = (uint64_t)le32toh(super->blocks) * EROFS_BLOCK;
    if (size > image->size || (image->size - size) % SPARSE_MAP_RECORD_BYTES != 0)
        return refuse(error, "its size is not what the superblock says");
    image->sparse_map =
        (struct sparse_map){ .records = image->data + size,
                             .count = (image->size - size) / SPARSE_MAP_RECORD_BYTES };
    image->size = size;
    return 0;
}

int erofs_image_open(struct erofs_image *ret, const void *data, uint64_t size, struct error **error)
{
    struct erofs_image image = { .data = data, .size = size };
    if (!erofs_bytes(&image, EROFS_SUPERBLOCK_OFFSET, EROFS_BLOCK))
        return refuse(error, "its size is impossible");
    struct erofs_disk_superblock super;
    memcpy(&super, image.data + EROFS_SUPERBLOCK_OFFSET, sizeof super);
    if (check_superblock(&image, &super, error) < 0) return -1;
    if (split_off_map(&image, &super, error) < 0) return -1;
    image.root_nid = le16toh(super.root_nid);
    image.inode_count = le64toh(super.inode_count);
    image.device_table_offset = EROFS_DEVICE_TABLE_OFFSET;
    if (read_device_table(&image, &super, error) < 0) return -1;
    *ret = image;
    return 0;
}

int erofs_image_device(const struct erofs_image *image, uint32_t device, uint64_t *ret_length,
                       struct digest *ret_tag, struct error **error)
{
    const struct erofs_disk_device *slot = NULL;
    if (device > 0 && device <= image->device_count)
        slot = erofs_bytes(image, image->device_table_offset + (device - 1) * sizeof *slot,
                           sizeof *slot);
    if (!slot || parse_tag(slot, ret_tag) < 0)
        return error_set(error, ERROR_INVALID, "metadata image: it has no device %u", device);
    *ret_length = (uint64_t)le32toh(slot->blocks) * EROFS_BLOCK;
    return 0;
}

int erofs_image_inode(const struct erofs_image *image, uint64_t nid, struct erofs_inode *ret)
{
    if (nid > UINT64_MAX / EROFS_SLOT) return -EIO;
    const struct erofs_disk_inode *disk = erofs_bytes(image, nid * EROFS_SLOT, sizeof *disk);
    if (!disk) return -EIO;
    uint16_t format = le16toh(disk->format), xattr_count = le16toh(disk->xattr_count);
    if (!(format & 1) || format > (EROFS_CHUNKED << 1 | 1)) return -EIO;
    *ret = (struct erofs_inode){
        .nid = nid,
        .mode = le16toh(disk->mode),
        .link_count = le32toh(disk->link_count),
        .uid = le32toh(disk->uid),
        .gid = le32toh(disk->gid),
        .size = le64toh(disk->size),
        .mtime = (int64_t)le64toh(disk->mtime),
        .mtime_nsec = le32toh(disk->mtime_nsec),
        .header_offset = nid * EROFS_SLOT,
        .xattr_size =
            xattr_count ? (uint32_t)sizeof(struct erofs_disk_xattrs) + (xattr_count - 1u) * 4 : 0,
        .layout = format >> 1,
        .start_block = le32toh(disk->place),
    };
    if (S_ISCHR(ret->mode) || S_ISBLK(ret->mode)) ret->rdev = ret->start_block;
    return 0;
}

/* Block `number` of a directory's or link target's data, and how much of it there is. */
static const uint8_t *flat_block(const struct erofs_image *image, const struct erofs_inode *inode,
                                 uint64_t number, uint32_t *ret_length)
{
    uint64_t whole = inode->size / EROFS_BLOCK;
    uint32_t tail = inode->size % EROFS_BLOCK;
    if (number > whole || (number == whole && tail == 0)) return NULL;
    *ret_length = number < whole ? EROFS_BLOCK : tail;
    if (number == whole && inode->layout == EROFS_FLAT_INLINE)
        return erofs_bytes(image, erofs_payload_offset(inode), tail);
    if (inode->layout != EROFS_FLAT_PLAIN && inode->layout != EROFS_FLAT_INLINE) return NULL;
    return erofs_bytes(image, (inode->start_block + number) * EROFS_BLOCK, *ret_length);
}

struct directory_block {
    const struct erofs_disk_dirent *entries;
    const uint8_t *bytes;
    uint32_t count, length;
};

static int directory_block_at(const struct erofs_image *image, const struct erofs_inode *directory,
                              uint64_t number, struct directory_block *ret)
{
    uint32_t length;
    const uint8_t *bytes = flat_block(image, directory, number, &length);
    if (!bytes || length < sizeof(struct erofs_disk_dirent)) return -EIO;
    const struct erofs_disk_dirent *entries = (const void *)bytes;
    uint32_t names = le16toh(entries[0].name_offset);
    if (names < sizeof *entries || names >= length || names % sizeof *entries) return -EIO;
    *ret = (struct directory_block){ entries, bytes, names / (uint32_t)sizeof *entries, length };
    return 0;
}

static int name_at(const struct directory_block *block, uint32_t position, const char **ret,
                   size_t *ret_length)
{
    uint32_t start = le16toh(block->entries[position].name_offset), end = block->length;
    if (position + 1 < block->count) end = le16toh(block->entries[position + 1].name_offset);
    if (start >= end || end > block->length) return -EIO;
    *ret = (const char *)block->bytes + start;
    /* Zeros fill up a block behind its last name. */
    *ret_length = position + 1 < block->count ? end - start : strnlen(*ret, end - start);
    return *ret_length > 0 && *ret_length <= EROFS_NAME_MAX ? 0 : -EIO;
}

static int compare_names(const char *left, size_t left_length, const char *right,
                         size_t right_length)
{
    int order = memcmp(left, right, left_length < right_length ? left_length : right_length);
    if (order) return order;
    return left_length < right_length ? -1 : left_length > right_length;
}

/* Compares `name` with entry `position`. */
static int compare_at(const struct directory_block *block, uint32_t position, const char *name,
                      size_t length, int *ret_order)
{
    const char *other;
    size_t other_length;
    int status = name_at(block, position, &other, &other_length);
    if (status == 0) *ret_order = compare_names(name, length, other, other_length);
    return status;
}

/* The last block whose first name is not behind `name`. */
static int find_block(const struct erofs_image *image, const struct erofs_inode *directory,
                      const char *name, size_t length, struct directory_block *ret)
{
    uint64_t low = 0;
    uint64_t high = directory->size / EROFS_BLOCK + (directory->size % EROFS_BLOCK != 0);
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        int order = 0, status = directory_block_at(image, directory, middle, ret);
        if (status == 0) status = compare_at(ret, 0, name, length, &order);
        if (status < 0) return status;
        if (order < 0)
            high = middle;
        else
            low = middle;
    }
    return directory_block_at(image, directory, low, ret);
}

int erofs_image_lookup(const struct erofs_image *image, const struct erofs_inode *directory,
                       const char *name, size_t length, uint64_t *ret_nid)
{
    struct directory_block block;
    if (!S_ISDIR(directory->mode)) return -ENOTDIR;
    if (length > EROFS_NAME_MAX) return -ENAMETOOLONG;
    int status = find_block(image, directory, name, length, &block);
    if (status < 0) return status;
    uint32_t low = 0, high = block.count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = 0;
        status = compare_at(&block, middle, name, length, &order);
        if (status < 0) return status;
        if (order == 0) {
            *ret_nid = le64toh(block.entries[middle].nid);
            return 0;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -ENOENT;
}

static uint8_t dirent_type(uint8_t type)
{
    static const uint8_t types[] = { DT_UNKNOWN, DT_REG,  DT_DIR,  DT_CHR,
                                     DT_BLK,     DT_FIFO, DT_SOCK, DT_LNK };
    return type < sizeof types ? types[type] : DT_UNKNOWN;
}

/* A cookie is the offset of the entry's record in the directory's data. */
int erofs_image_readdir(const struct erofs_image *image, const struct erofs_inode *directory,
                        uint64_t cookie, struct erofs_dirent *ret)
{
    struct directory_block block;
    uint64_t number = cookie / EROFS_BLOCK;
    uint32_t position = cookie % EROFS_BLOCK / sizeof(struct erofs_disk_dirent);
    if (!S_ISDIR(directory->mode)) return -ENOTDIR;
    if (cookie >= directory->size) return 0;
    if (cookie % EROFS_BLOCK % sizeof(struct erofs_disk_dirent)) return -EINVAL;
    int status = directory_block_at(image, directory, number, &block);
    if (status < 0) return status;
    if (position >= block.count) return -EINVAL;
    status = name_at(&block, position, &ret->name, &ret->name_length);
    if (status < 0) return status;
    ret->nid = le64toh(block.entries[position].nid);
    ret->type = dirent_type(block.entries[position].type);
    ret->next_cookie = position + 1 < block.count ? cookie + sizeof(struct erofs_disk_dirent)
                                                  : (number + 1) * EROFS_BLOCK;
    return 1;
}

/* The layout keeps a target in one piece. */
int erofs_image_symlink(const struct erofs_image *image, const struct erofs_inode *inode,
                        const char **ret_target, size_t *ret_length)
{
    const uint8_t *target = NULL;
    if (!S_ISLNK(inode->mode)) return -EINVAL;
    if (inode->layout == EROFS_FLAT_INLINE && inode->size < EROFS_BLOCK)
        target = erofs_bytes(image, erofs_payload_offset(inode), inode->size);
    else if (inode->layout == EROFS_FLAT_PLAIN)
        target = erofs_bytes(image, (uint64_t)inode->start_block * EROFS_BLOCK, inode->size);
    if (!target || inode->size == 0) return -EIO;
    *ret_target = (const char *)target;
    *ret_length = inode->size;
    return 0;
}
