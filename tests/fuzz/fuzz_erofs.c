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
#include "tests/fuzz/fuzz.h"
#include "tests/tools/image_read.h"
#include "tests/tools/image_rebuild.h"

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
        expect_rebuilt(&image, lengths);
    } else {
        expect_error(error);
        error_free(error);
        read_tree(&image, image.root_nid, 20, &budget);
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
