/* Where things go in an image: one set of rules for the writer and the validator. */
#include <string.h>

#include "index/erofs-internal.h"

uint8_t erofs_file_type(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 1;
    case S_IFDIR:
        return 2;
    case S_IFCHR:
        return 3;
    case S_IFBLK:
        return 4;
    case S_IFIFO:
        return 5;
    case S_IFLNK:
        return 7;
    default:
        return 0;
    }
}

unsigned erofs_chunk_bits(uint64_t size)
{
    uint64_t last_block = (size - 1) >> EROFS_BLOCK_BITS;
    unsigned bits = last_block ? 64 - (unsigned)__builtin_clzll(last_block) : 0;
    return bits > EROFS_CHUNK_BITS_MAX ? EROFS_CHUNK_BITS_MAX : bits;
}

unsigned erofs_sparse_chunk_bits(uint64_t size)
{
    unsigned bits = EROFS_SPARSE_BITS_MIN;
    while (bits < EROFS_CHUNK_BITS_MAX && erofs_chunk_count(size, bits) > EROFS_SPARSE_CHUNKS_MAX)
        bits++;
    return bits;
}

/* Inline data must not cross a block: the inode moves on until it does not. When no slot will do
 * (attributes of a length that is no multiple of the slot), the data goes outside. So does a link
 * target that is longer than a block, to lie in one piece. */
static struct erofs_placement place_flat(uint64_t offset, uint32_t mode, uint32_t header,
                                         uint64_t size)
{
    uint64_t tail = size % EROFS_BLOCK;
    struct erofs_placement place = { EROFS_FLAT_INLINE, offset, offset + header, 0,
                                     size / EROFS_BLOCK };
    uint64_t tail_room = EROFS_BLOCK - header % EROFS_SLOT;
    if (tail == 0 || tail > tail_room || (S_ISLNK(mode) && size > EROFS_BLOCK)) {
        place.layout = EROFS_FLAT_PLAIN;
        place.end = place.payload;
        if (tail > 0) place.blocks++;
        return place;
    }
    while (place.payload % EROFS_BLOCK + tail > EROFS_BLOCK) {
        place.offset += EROFS_SLOT;
        place.payload += EROFS_SLOT;
    }
    place.end = place.payload + tail;
    return place;
}

struct erofs_placement erofs_place(uint64_t cursor, uint32_t mode, uint32_t xattr_bytes,
                                   uint64_t size, unsigned chunk_bits)
{
    uint64_t offset = erofs_round_up(cursor, EROFS_SLOT);
    uint32_t header = (uint32_t)sizeof(struct erofs_disk_inode) + xattr_bytes;
    if (S_ISDIR(mode) || S_ISLNK(mode)) return place_flat(offset, mode, header, size);
    struct erofs_placement place = { EROFS_FLAT_PLAIN, offset, offset + header, offset + header,
                                     0 };
    if (S_ISREG(mode) && size > 0) {
        place.layout = EROFS_CHUNKED;
        place.payload = erofs_round_up(place.payload, sizeof(struct erofs_disk_chunk));
        place.end =
            place.payload + erofs_chunk_count(size, chunk_bits) * sizeof(struct erofs_disk_chunk);
    }
    return place;
}

int erofs_uuid_of(const void *device_table, uint32_t device_count, uint8_t uuid[16])
{
    struct digest digest;
    struct digest_stream *stream = digest_stream_new();
    if (!stream) return -1;
    digest_stream_update(stream, EROFS_VOLUME_NAME, strlen(EROFS_VOLUME_NAME));
    digest_stream_update(stream, device_table, device_count * sizeof(struct erofs_disk_device));
    digest_stream_finish(stream, &digest);
    digest_stream_free(stream);
    memcpy(uuid, digest.bytes, 16);
    uuid[6] = (uuid[6] & 0x0f) | 0x80; /* RFC 9562, version 8: made our own way */
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    return 0;
}
