/* Where the bytes of regular files are: chunk indexes, and the sparse map. */
#include <errno.h>

#include "index/erofs-internal.h"

static unsigned chunk_shift(const struct erofs_inode *inode)
{
    return EROFS_BLOCK_BITS + (inode->start_block & EROFS_CHUNK_BITS_MAX);
}

static const struct erofs_disk_chunk *chunk_at(const struct erofs_image *image,
                                               const struct erofs_inode *inode, uint64_t number)
{
    uint64_t table = erofs_round_up(erofs_payload_offset(inode), sizeof(struct erofs_disk_chunk));
    if (number > image->size / sizeof(struct erofs_disk_chunk)) return NULL;
    return erofs_bytes(image, table + number * sizeof(struct erofs_disk_chunk),
                       sizeof(struct erofs_disk_chunk));
}

/* Puts what the sparse map says in place of an extent on the sparse device. */
static int resolve_sparse(const struct erofs_image *image, struct erofs_extent *extent)
{
    const struct sparse_map *map = &image->sparse_map;
    uint64_t position = sparse_map_find(map, extent->device_offset), length = extent->length;
    struct erofs_extent hole = { .length = length };
    if (position < map->count) {
        struct sparse_record record = sparse_map_get(map, position);
        if (record.device_offset <= extent->device_offset) {
            uint64_t inside = extent->device_offset - record.device_offset;
            uint64_t left = record.length - inside;
            if (inside >= record.length || record.layer >= image->device_count ||
                record.stream_offset > INT64_MAX || record.length > INT64_MAX)
                return -EIO;
            *extent = (struct erofs_extent){ .device = record.layer + 1,
                                             .device_offset = record.stream_offset + inside,
                                             .length = left < length ? left : length };
            return 0;
        }
        uint64_t left = record.device_offset - extent->device_offset;
        if (left < length) hole.length = left;
    }
    *extent = hole;
    return 0;
}

int erofs_image_map(const struct erofs_image *image, const struct erofs_inode *inode,
                    uint64_t offset, struct erofs_extent *ret)
{
    if (!S_ISREG(inode->mode) || offset >= inode->size || inode->layout != EROFS_CHUNKED)
        return -EIO;
    unsigned shift = chunk_shift(inode);
    uint64_t number = offset >> shift, inside = offset - (number << shift);
    const struct erofs_disk_chunk *chunk = chunk_at(image, inode, number);
    if (!chunk) return -EIO;
    uint16_t device = le16toh(chunk->device);
    uint32_t block = le32toh(chunk->block);
    uint64_t chunk_left = (UINT64_C(1) << shift) - inside, file_left = inode->size - offset;
    *ret = (struct erofs_extent){ .length = chunk_left < file_left ? chunk_left : file_left };
    if (device == 0) return block == EROFS_HOLE ? 0 : -EIO;
    ret->device = device;
    ret->device_offset = (uint64_t)block * EROFS_BLOCK + inside;
    if (device == image->sparse_device) return resolve_sparse(image, ret);
    return device <= image->device_count ? 0 : -EIO;
}

/* The first or the last record of the sparse map that belongs to the file. */
static int edge_record(const struct erofs_image *image, const struct erofs_inode *inode, bool last,
                       struct sparse_record *ret)
{
    unsigned shift = chunk_shift(inode);
    uint64_t count = erofs_chunk_count(inode->size, shift - EROFS_BLOCK_BITS);
    if (count > EROFS_SPARSE_CHUNKS_MAX) return -EIO;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t number = last ? count - 1 - i : i;
        const struct erofs_disk_chunk *chunk = chunk_at(image, inode, number);
        if (!chunk) return -EIO;
        if (le16toh(chunk->device) != image->sparse_device) continue;
        uint64_t start = (uint64_t)le32toh(chunk->block) * EROFS_BLOCK, end = inode->size;
        if (number + 1 < count) end = (number + 1) << shift;
        uint64_t position = sparse_map_find(&image->sparse_map, start);
        if (last) position = sparse_map_find(&image->sparse_map, start + (end - (number << shift)));
        if (position < last || position - last >= image->sparse_map.count) return -EIO;
        *ret = sparse_map_get(&image->sparse_map, position - last);
        return 0;
    }
    return -ENODATA; /* nothing but holes */
}

uint64_t erofs_image_stored_bytes(const struct erofs_image *image, const struct erofs_inode *inode)
{
    if (!S_ISREG(inode->mode) || inode->size == 0 || inode->layout != EROFS_CHUNKED) return 0;
    const struct erofs_disk_chunk *chunk = chunk_at(image, inode, 0);
    if (!chunk || !erofs_chunks_are_sparse(image, chunk)) return inode->size;
    struct sparse_record first, last;
    if (edge_record(image, inode, false, &first) < 0 || edge_record(image, inode, true, &last) < 0)
        return 0;
    /* All of them stand one after the other in the layer. */
    return last.stream_offset + last.length - first.stream_offset;
}
