/*
 * Fed: a metadata image, as an index or a file in the cache holds it. The
 * mutator keeps superblock and device table right, of which nearly every byte
 * is fixed, and so works on what is behind them; and it knows where inodes are.
 *
 * Holds: an image that is accepted can be walked whole without an error, its
 * answers agree, and its tree makes it again to the byte; the reader stays
 * inside the memory and ends whatever it is asked of an image that is not.
 */
#include "index/erofs-internal.h"
#include "tests/fuzz/image_walk.h"

static volatile uint8_t sink; /* so that reads are not left out */

static void read_attributes(const struct erofs_image *image, const struct erofs_inode *inode)
{
    char names[512];
    const void *value;
    ssize_t length = erofs_image_listxattr(image, inode, names, sizeof names);
    (void)erofs_image_listxattr(image, inode, NULL, 0);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        ssize_t got = erofs_image_getxattr(image, inode, names + at, &value);
        for (ssize_t i = 0; i < got; i++)
            sink = ((const uint8_t *)value)[i];
    }
}

static void read_inode(const struct erofs_image *image, const struct erofs_inode *inode)
{
    const char *target;
    size_t length;
    struct erofs_extent extent;
    read_attributes(image, inode);
    if (erofs_image_symlink(image, inode, &target, &length) == 0)
        for (size_t i = 0; i < length; i++)
            sink = (uint8_t)target[i];
    (void)erofs_image_map(image, inode, 0, &extent);
    (void)erofs_image_map(image, inode, inode->size / 2, &extent);
    (void)erofs_image_map(image, inode, inode->size - 1, &extent);
}

/* Whatever the answers, it must end. */
static void read_anyhow(const struct erofs_image *image, uint64_t nid, int depth, int *budget)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    if (depth == 0 || --*budget < 0 || erofs_image_inode(image, nid, &inode) < 0) return;
    read_inode(image, &inode);
    for (uint64_t cookie = 0; erofs_image_readdir(image, &inode, cookie, &dirent) == 1;
         cookie = dirent.next_cookie) {
        uint64_t found;
        EXPECT(dirent.next_cookie > cookie);
        if (--*budget < 0) return;
        (void)erofs_image_lookup(image, &inode, dirent.name, dirent.name_length, &found);
        if (dirent.name_length > 2 || dirent.name[0] != '.')
            read_anyhow(image, dirent.nid, depth - 1, budget);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct erofs_image image;
    struct error *error = NULL;
    uint64_t lengths[EROFS_DEVICES_MAX];
    struct digest tag;
    int budget = 5000;
    if (erofs_image_open(&image, data, length, &error) < 0) {
        expect_error(error);
        error_free(error);
        return 0;
    }
    for (uint32_t i = 0; i < image.device_count; i++)
        EXPECT_SUCCESS(erofs_image_device(&image, i + 1, &lengths[i], &tag, &error));
    if (erofs_image_validate(&image, lengths, image.device_count, &error) == 0) {
        walk_image(&image, lengths);
    } else {
        expect_error(error);
        error_free(error);
        read_anyhow(&image, image.root_nid, 20, &budget);
    }
    return 0;
}

/* ---- the mutator ---- */

static void repair(uint8_t *data, size_t length)
{
    struct erofs_disk_superblock super;
    memset(data, 0, EROFS_SUPERBLOCK_OFFSET);
    memcpy(&super, data + EROFS_SUPERBLOCK_OFFSET, sizeof super);
    uint16_t devices = (uint16_t)(le16toh(super.device_count) % 4);
    uint64_t room = (length - EROFS_DEVICE_TABLE_OFFSET) / sizeof(struct erofs_disk_device);
    if (devices > room) devices = (uint16_t)room;
    super = (struct erofs_disk_superblock){
        .magic = htole32(EROFS_MAGIC),
        .feature_compatible = htole32(EROFS_COMPATIBLE),
        .block_bits = EROFS_BLOCK_BITS,
        .root_nid = super.root_nid,
        .inode_count = super.inode_count,
        .blocks = htole32((uint32_t)(length / EROFS_BLOCK)),
        .feature_incompatible = htole32(EROFS_INCOMPATIBLE),
        .device_count = htole16(devices),
        .device_table_slot = htole16(EROFS_DEVICE_TABLE_OFFSET / sizeof(struct erofs_disk_device)),
        .volume_name = EROFS_VOLUME_NAME,
    };
    struct erofs_disk_device *table = (void *)(data + EROFS_DEVICE_TABLE_OFFSET);
    for (uint16_t i = 0; i < devices; i++) {
        memset(table[i].tag, 'a' + i, sizeof table[i].tag);
        table[i].mapped_block = 0;
        memset(table[i].reserved, 0, sizeof table[i].reserved);
    }
    EXPECT(erofs_uuid_of(table, devices, super.uuid) == 0);
    memcpy(data + EROFS_SUPERBLOCK_OFFSET, &super, sizeof super);
}

/* Another value in a field of something that looks like an inode. */
static void change_inode(uint8_t *data, size_t length, unsigned seed)
{
    static const struct {
        size_t offset, length;
    } fields[] = { { 4, 2 },  { 8, 8 },  { 16, 4 }, { 24, 4 }, { 28, 4 },
                   { 32, 8 }, { 40, 4 }, { 44, 4 }, { 64, 8 }, { 64, 32 } };
    size_t slots = length / EROFS_SLOT;
    for (size_t tries = 0; tries < slots; tries++) {
        size_t offset = (seed + tries) % slots * EROFS_SLOT;
        if (offset < EROFS_DEVICE_TABLE_OFFSET || offset + 96 > length) continue;
        if (data[offset + 1] != 0 || !(data[offset] & 1) || data[offset] > 9) continue;
        size_t field = (seed >> 16) % (sizeof fields / sizeof *fields);
        (void)LLVMFuzzerMutate(data + offset + fields[field].offset, fields[field].length,
                               fields[field].length);
        return;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t length, size_t capacity, unsigned seed)
{
    if (length < 2048 || seed % 8 == 0) {
        length = LLVMFuzzerMutate(data, length, capacity);
    } else if (seed % 2) {
        change_inode(data, length, seed >> 3);
    } else {
        size_t from = EROFS_DEVICE_TABLE_OFFSET;
        length = from + LLVMFuzzerMutate(data + from, length - from, capacity - from);
    }
    if (length < 2048) return length;
    length -= length % EROFS_BLOCK;
    repair(data, length);
    return length;
}
