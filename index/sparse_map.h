/*
 * Which bytes of layers a metadata image's sparse device stands for
 * (docs/formats.md, "Sparse map"). The device has no bytes of its own: what no
 * record names reads as zeros.
 *
 * Read in place, from memory that may be a mapped file: every record is checked
 * when it is used, besides having been validated with the image.
 */
#ifndef SLUICE_INDEX_SPARSE_MAP_H
#define SLUICE_INDEX_SPARSE_MAP_H

#include <stdint.h>

#define SPARSE_MAP_RECORD_BYTES 32u

struct sparse_map {
    const uint8_t *records; /* borrowed; sorted by device offset, no two overlap */
    uint64_t count;
};

struct sparse_record {
    uint64_t device_offset, length; /* bytes of the sparse device */
    uint64_t stream_offset;         /* where they are in the layer's stream */
    uint32_t layer;                 /* from 0 */
    uint32_t reserved;              /* 0 */
};

struct sparse_record sparse_map_get(const struct sparse_map *map, uint64_t position);
/* Writes SPARSE_MAP_RECORD_BYTES. */
void sparse_record_write(const struct sparse_record *record, uint8_t *to);
/* The first record that ends behind `device_offset`; `count` when there is none. */
uint64_t sparse_map_find(const struct sparse_map *map, uint64_t device_offset);

#endif
