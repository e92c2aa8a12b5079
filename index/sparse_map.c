#include "index/sparse_map.h"

#include <endian.h>
#include <string.h>

_Static_assert(sizeof(struct sparse_record) == SPARSE_MAP_RECORD_BYTES, "sparse map record");

/* The same either way. */
static struct sparse_record little_endian(struct sparse_record record)
{
    return (struct sparse_record){ .device_offset = htole64(record.device_offset),
                                   .length = htole64(record.length),
                                   .stream_offset = htole64(record.stream_offset),
                                   .layer = htole32(record.layer),
                                   .reserved = htole32(record.reserved) };
}

struct sparse_record sparse_map_get(const struct sparse_map *map, uint64_t position)
{
    struct sparse_record disk;
    memcpy(&disk, map->records + position * sizeof disk, sizeof disk);
    return little_endian(disk);
}

void sparse_record_write(const struct sparse_record *record, uint8_t *to)
{
    struct sparse_record disk = little_endian(*record);
    memcpy(to, &disk, sizeof disk);
}

uint64_t sparse_map_find(const struct sparse_map *map, uint64_t device_offset)
{
    uint64_t low = 0, high = map->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        struct sparse_record record = sparse_map_get(map, middle);
        if (record.device_offset <= device_offset &&
            device_offset - record.device_offset >= record.length)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
