/*
 * Sparse files: which chunks have data, where they are on the sparse device,
 * and the records of the sparse map that say what is there. One set of rules
 * for the writer and the validator.
 *
 * A chunk with any data takes the next range of the device, in the order of the
 * inodes and of their chunks; the last chunk of a file ends with the file. So
 * neighbouring chunks with data lie together on the device, and each segment of
 * a file is one record.
 */
#include "index/erofs-internal.h"

struct chunks {
    uint64_t size;  /* of the file */
    unsigned shift; /* of a chunk's size */
    uint64_t count;
};

static struct chunks chunks_of(uint64_t size)
{
    unsigned bits = erofs_sparse_chunk_bits(size);
    return (struct chunks){ size, EROFS_BLOCK_BITS + bits, erofs_chunk_count(size, bits) };
}

static uint64_t chunk_blocks(const struct chunks *chunks, uint64_t chunk)
{
    if (chunk + 1 < chunks->count) return UINT64_C(1) << (chunks->shift - EROFS_BLOCK_BITS);
    return erofs_round_up(chunks->size - (chunk << chunks->shift), EROFS_BLOCK) / EROFS_BLOCK;
}

uint64_t erofs_sparse_blocks(const struct entry *entry)
{
    struct chunks chunks = chunks_of(entry->size);
    uint64_t blocks = 0, next = 0; /* the first chunk that is not counted */
    for (uint32_t i = 0; i < entry->segment_count; i++) {
        const struct entry_segment *segment = &entry->segments[i];
        uint64_t first = segment->offset >> chunks.shift;
        uint64_t last = (segment->offset + segment->length - 1) >> chunks.shift;
        for (next = next > first ? next : first; next <= last; next++)
            blocks += chunk_blocks(&chunks, next);
    }
    return blocks;
}

void erofs_sparse_write(const struct entry *entry, uint32_t layer, uint16_t device,
                        uint32_t first_block, struct erofs_disk_chunk *disk, uint8_t *records)
{
    struct chunks chunks = chunks_of(entry->size);
    uint64_t next = 0, block = first_block, stream_offset = entry->data_offset;
    for (uint64_t i = 0; i < chunks.count; i++)
        disk[i] = (struct erofs_disk_chunk){ .block = htole32(EROFS_HOLE) };
    for (uint32_t i = 0; i < entry->segment_count; i++) {
        const struct entry_segment *segment = &entry->segments[i];
        uint64_t first = segment->offset >> chunks.shift;
        uint64_t last = (segment->offset + segment->length - 1) >> chunks.shift;
        for (next = next > first ? next : first; next <= last; next++) {
            disk[next] = (struct erofs_disk_chunk){ .device = htole16(device),
                                                    .block = htole32((uint32_t)block) };
            block += chunk_blocks(&chunks, next);
        }
        struct sparse_record record = {
            .device_offset = (uint64_t)le32toh(disk[first].block) * EROFS_BLOCK +
                             (segment->offset - (first << chunks.shift)),
            .length = segment->length,
            .stream_offset = stream_offset,
            .layer = layer,
        };
        sparse_record_write(&record, records + (uint64_t)i * SPARSE_MAP_RECORD_BYTES);
        stream_offset += segment->length;
    }
}

static bool is_hole(const struct erofs_disk_chunk *chunk)
{
    return chunk->advise == 0 && chunk->device == 0 && le32toh(chunk->block) == EROFS_HOLE;
}

bool erofs_chunks_are_sparse(const struct erofs_image *image, const struct erofs_disk_chunk *chunks)
{
    uint16_t device = le16toh(chunks[0].device);
    return is_hole(&chunks[0]) || (device != 0 && device == image->sparse_device);
}

/* The data of one file, record by record. */
struct data {
    uint64_t records;
    uint64_t bytes;
    uint32_t layer;
    uint64_t stream_offset; /* of what comes next */
};

static const char *check_record(const struct erofs_sparse_check *check, struct data *data,
                                const struct sparse_record *record)
{
    if (record->reserved != 0 || record->length == 0) return "a record of its data is malformed";
    if (record->layer >= check->image->device_count) return "its data is in no layer";
    if (data->records == 0) {
        if (record->stream_offset % EROFS_BLOCK) return "its data starts inside of a block";
        data->layer = record->layer;
    } else if (record->layer != data->layer || record->stream_offset != data->stream_offset) {
        return "its data is not in one piece";
    }
    uint64_t layer_length = check->layer_lengths[record->layer];
    if (record->stream_offset > layer_length ||
        record->length > layer_length - record->stream_offset)
        return "its data lies behind the end of the layer";
    data->records++;
    data->bytes += record->length;
    data->stream_offset = record->stream_offset + record->length;
    return NULL;
}

/* Chunks with data that follow each other, `length` bytes of the file from `start` of the device
 * on. */
static const char *check_run(struct erofs_sparse_check *check, struct data *data, uint64_t start,
                             uint64_t length, unsigned shift)
{
    const struct sparse_map *map = &check->image->sparse_map;
    uint64_t end = 0;         /* of the record before, within the run */
    uint64_t empty_chunk = 0; /* the first one that no record has touched */
    for (bool first = true; check->records < map->count; first = false) {
        struct sparse_record record = sparse_map_get(map, check->records);
        uint64_t offset = record.device_offset - start;
        if (record.device_offset < start) return "its data is out of order";
        if (offset >= length) break;
        if (record.length > length - offset) return "its data lies behind its end";
        if (!first && offset <= end) return "its data is out of order or in needless pieces";
        const char *fault = check_record(check, data, &record);
        if (fault) return fault;
        if (offset >> shift > empty_chunk) break;
        end = offset + record.length;
        empty_chunk = ((end - 1) >> shift) + 1;
        check->records++;
    }
    return empty_chunk > (length - 1) >> shift ? NULL : "a chunk has no data";
}

const char *erofs_sparse_check(struct erofs_sparse_check *check, uint64_t size,
                               const struct erofs_disk_chunk *disk)
{
    struct chunks chunks = chunks_of(size);
    struct data data = { 0 };
    for (uint64_t i = 0; i < chunks.count;) {
        if (is_hole(&disk[i])) {
            i++;
            continue;
        }
        uint64_t first = i, first_block = check->blocks;
        for (; i < chunks.count && !is_hole(&disk[i]); i++) {
            if (disk[i].advise != 0 || le16toh(disk[i].device) != check->image->sparse_device ||
                le32toh(disk[i].block) != check->blocks)
                return "its chunks are not as sluice writes them";
            check->blocks += chunk_blocks(&chunks, i);
        }
        uint64_t end = i < chunks.count ? i << chunks.shift : size;
        const char *fault = check_run(check, &data, first_block * EROFS_BLOCK,
                                      end - (first << chunks.shift), chunks.shift);
        if (fault) return fault;
    }
    return data.bytes == size ? "it has no hole and is stored as if it had" : NULL;
}
