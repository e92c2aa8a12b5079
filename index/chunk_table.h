/*
 * A layer's chunks: runs of the stream, and what it takes to decode each.
 *
 * Chunk i covers the stream from its offset to that of chunk i + 1. It is
 * decoded from a checkpoint: its own, or (CHUNK_CONTINUES) that of the nearest
 * chunk before it that has one, by decoding on. Chunks are found by rules that
 * depend on the blob's bytes only, so equal blobs give equal tables.
 */
#ifndef SLUICE_INDEX_CHUNK_TABLE_H
#define SLUICE_INDEX_CHUNK_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

enum layer_kind { LAYER_TAR = 1, LAYER_GZIP = 2, LAYER_ZSTD = 3 };
const char *layer_kind_name(enum layer_kind kind); /* "tar", "gzip", "zstd" */

/* A new chunk starts at the first checkpoint that comes when chunk_target_length() is decoded ...
 */
#define CHUNK_TARGET_LEAST (256u << 10)
#define CHUNK_TARGET_MOST  (4 * CHUNK_TARGET_LEAST)
/* ... or without one, when a chunk has grown to this. No chunk is longer. */
#define CHUNK_LENGTH_MAX (4u << 20)

/* Small chunks bring little that nobody asked for, many chunks make a large table: 256 KiB, for
 * blobs of 2 GiB and more twice, of 4 GiB and more four times as much. docs/performance.md has the
 * trade. */
size_t chunk_target_length(uint64_t blob_length);

/* Behind the mark of index/frame_mark.h each frame is a chunk, but for the last one not shorter
 * than this: what a blob says must not make tables of any size. */
#define CHUNK_MARKED_LEAST (16u << 10)

/* RFC 1951: a deflate stream refers back at most this far. */
#define GZIP_WINDOW_LENGTH 32768u
/* Windows that are compressed together and fetched as one range. */
#define WINDOWS_PER_GROUP 8u

/* What a decoder of zstd holds of the stream at the most; zstd(1), too, refuses more unless it is
 * asked. */
#define CHUNK_DECODER_WINDOW_MAX   (128u << 20)
#define CHUNK_DECODER_WINDOW_LEAST (1u << 10)

enum chunk_start {
    CHUNK_FRAME,  /* blob_offset is the first byte of a gzip member, zstd frame or tar run */
    CHUNK_WINDOW, /* gzip: a deflate block starts at blob_offset, `bits` bits in; needs `window` */
    CHUNK_CONTINUES, /* no checkpoint; blob_offset is that of the chunk it continues */
};

struct chunk {
    uint64_t stream_offset;
    uint64_t blob_offset;
    struct digest digest; /* of the decoded bytes */
    uint32_t window;      /* CHUNK_WINDOW: ordinal of the window, from 0 in chunk order */
    uint8_t start;        /* enum chunk_start */
    uint8_t bits; /* CHUNK_WINDOW: low bits of the byte at blob_offset that belong to the block
                     before, 0 to 7 */
};

/* WINDOWS_PER_GROUP windows (the last group: fewer) as one zstd frame in the windows blob. */
struct window_group {
    uint64_t offset;      /* in the windows blob */
    uint32_t length;      /* compressed */
    struct digest digest; /* of the compressed bytes */
};

struct chunk_table {
    enum layer_kind kind;
    uint32_t decoder_window; /* zstd: the largest window of a frame, as a power of two; else 0 */
    uint64_t blob_length;
    uint64_t stream_length;
    struct digest blob_digest;
    struct digest stream_digest; /* diffID */
    uint32_t chunk_count;        /* 0 only for an empty stream */
    struct chunk *chunks;
    uint32_t window_count;
    uint32_t group_count;
    struct window_group *groups;
    uint64_t windows_length; /* of the windows blob; 0: there is none */
    atomic_uint shares;      /* owners beside the first one */
};

/* One more owner: it is freed by the last one. Any thread. Returns the table. */
struct chunk_table *chunk_table_share(struct chunk_table *table);
void chunk_table_free(struct chunk_table *table);
/* The format of docs/formats.md, not compressed. Deterministic. */
int chunk_table_encode(const struct chunk_table *table, struct buffer *ret, struct error **error);
/* Hostile bytes in; checks every rule. Memory used is bounded by `length`. */
int chunk_table_decode(struct chunk_table **ret, const void *data, size_t length,
                       struct error **error);

/* The chunk that holds byte `stream_offset` (< stream_length). */
uint32_t chunk_table_find(const struct chunk_table *table, uint64_t stream_offset);
uint64_t chunk_length(const struct chunk_table *table, uint32_t chunk);
/* The first chunk from which `chunk` can be decoded: itself, or the one it continues. */
uint32_t chunk_table_checkpoint(const struct chunk_table *table, uint32_t chunk);
/* The blob's bytes that decode chunks `first` (a checkpoint) to `last`, both included. */
void chunk_table_blob_range(const struct chunk_table *table, uint32_t first, uint32_t last,
                            uint64_t *ret_offset, uint64_t *ret_length);

/* A zstd frame can be decoded from its start only. Where one goes on for long (64 MiB), a chunk of
 * it costs all that comes before it, so whoever has such a chunk should keep it. */
bool chunk_table_is_read_forward(const struct chunk_table *table);

/* Window `window` out of its group's compressed bytes, which are checked against the table. */
int window_group_extract(const struct chunk_table *table, uint32_t window, const void *group_data,
                         size_t group_length, uint8_t ret[GZIP_WINDOW_LENGTH],
                         struct error **error);

#endif
