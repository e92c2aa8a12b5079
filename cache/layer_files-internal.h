/*
 * The directory of a layer: `data`, a sparse file whose offsets are the
 * stream's, and `chunks`, which says what of it is there (docs/formats.md).
 * Both belong together and are replaced together, as a directory: whoever has
 * the old pair open goes on with it, and nobody evicts from it.
 *
 * A chunk's state is a number in `chunks` that all processes have mapped: odd
 * while the chunk is stored, and counted up by each store and each eviction. It
 * is the chunk's generation: who reads looks at it before and after, and what
 * was read counts only if it has not moved.
 *
 * Who stores or evicts a chunk holds its lock, a byte of `chunks` that is
 * locked for an open file description. The kernel keeps an io_uring write's
 * description open until the write is over, so not even a process that was
 * killed writes after its lock is gone. Readers take no lock.
 */
#ifndef SLUICE_CACHE_LAYER_FILES_INTERNAL_H
#define SLUICE_CACHE_LAYER_FILES_INTERNAL_H

#include <stdatomic.h>

#include "base/mapping.h"
#include "cache/cache-internal.h"

#define LAYER_DATA_ALIGNMENT 4096u

struct layer_files {
    char name[DIGEST_HEX_SIZE]; /* of the directory */
    int data, chunks;           /* descriptors */
    uint64_t stream_length;
    uint64_t data_length; /* of the file: the stream's, rounded up to whole pages */
    uint32_t chunk_count;
    uint32_t *lengths; /* of the chunks; layer_files_look() only, else NULL */
    struct mapping *mapping;
    _Atomic uint32_t *states, *used; /* in the mapping, little-endian */
};

#define LAYER_FILES_NONE         \
    {                            \
        .data = -1, .chunks = -1 \
    }

/* Opens the layer of `shape` to use it, making or replacing what is missing or odd. */
int layer_files_open(struct cache *cache, const struct digest *key, const struct layer_shape *shape,
                     struct layer_files *ret, struct error **error);
/* Opens what is there, without using it. -1: missing or odd. */
int layer_files_look(const struct cache *cache, const char *name, struct layer_files *ret);
void layer_files_close(struct layer_files *files);
/* Whether a server has the layer open; and so that it must not lose chunks. */
bool layer_files_in_use(const struct layer_files *files);
bool layer_files_kept(const struct layer_files *files);
/* Whoever gives `data` to a kernel holds this lock in common until the files are closed; who takes
 * chunks away holds it alone. False: not now. */
bool layer_files_lock_data(const struct layer_files *files, bool alone);
void layer_files_unlock_data(const struct layer_files *files);
/* Takes the directory away from who opens the layer later; those who have it open go on. */
void layer_files_drop(struct cache *cache, const struct layer_files *files);
/* Removes a layer that nobody has open. False: it is still there. */
bool layer_files_remove(struct cache *cache, const char *name);
/* Bytes on disk. */
uint64_t layer_files_size(const struct layer_files *files);

bool layer_files_lock_chunks(const struct layer_files *files, uint32_t first, uint32_t count);
void layer_files_unlock_chunks(const struct layer_files *files, uint32_t first, uint32_t count);

/* The chunk's generation; 0: it is not stored. */
uint32_t layer_files_generation(const struct layer_files *files, uint32_t chunk);
/* With the chunk's lock, after its bytes are written: the generation; 0: nobody can know. */
uint32_t layer_files_publish(const struct layer_files *files, uint32_t chunk);
/* The chunk is not stored, if it is still of that generation. */
bool layer_files_clear(const struct layer_files *files, uint32_t chunk, uint32_t generation);
/* The chunk was used just now. */
void layer_files_touch(const struct layer_files *files, uint32_t chunk);
uint32_t layer_files_last_use(const struct layer_files *files, uint32_t chunk);

#endif
