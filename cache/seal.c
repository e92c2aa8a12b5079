/*
 * Sealing: all of a layer is read back from the disk, and if it is right, and
 * for as long as the file does not change, nobody needs to look again. Such a
 * file may be given to the kernel, which asks nobody before it reads.
 *
 * While it is read the locks of all chunks are held, so that none is evicted or
 * written again meanwhile. They are not missed: all chunks are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "cache/layer_cache-internal.h"
#include "cache/seal-internal.h"

/* A multiple of every block that a disk may ask for, which reads past the page cache need. */
#define PIECE_LENGTH    ((size_t)1 << 20)
#define PIECE_ALIGNMENT ((size_t)LAYER_DATA_ALIGNMENT)

/* Who evicts has a layer for moments. */
#define LEND_ATTEMPTS 40u
#define LEND_AGAIN_MS 5u

struct sealing {
    const struct layer_seal *seal;
    struct layer_files files; /* opened for this alone, so that the locks are its own */
    uint32_t *generations;    /* before the first byte was read */
    uint8_t *piece;
    struct digest_stream *stream, *chunk_stream;
    uint32_t chunk;      /* that is being hashed ... */
    uint32_t chunk_left; /* ... and its bytes that have not come yet */
    uint32_t damaged;
};

static uint64_t length_of_layer(const struct sealing *sealing)
{
    return sealing->files.stream_length;
}

/* ---- one piece ---- */

/* Who stores it again writes to its place, and the disk may find another for it. */
static bool lose_chunk(struct sealing *sealing, uint32_t chunk)
{
    bool lost = layer_files_clear(&sealing->files, chunk, sealing->generations[chunk]);
    if (lost) sealing->damaged++;
    return lost;
}

static void end_chunk(struct sealing *sealing)
{
    const struct layer_files *files = &sealing->files;
    uint32_t chunk = sealing->chunk++;
    struct digest found;
    digest_stream_finish(sealing->chunk_stream, &found);
    if (sealing->chunk < files->chunk_count) sealing->chunk_left = files->lengths[sealing->chunk];
    if (!digest_equal(&found, &sealing->seal->chunks[chunk])) lose_chunk(sealing, chunk);
}

static void hash_chunks(struct sealing *sealing, const uint8_t *data, size_t length)
{
    while (length > 0) {
        size_t part = length < sealing->chunk_left ? length : sealing->chunk_left;
        digest_stream_update(sealing->chunk_stream, data, part);
        data += part;
        length -= part;
        sealing->chunk_left -= (uint32_t)part;
        if (sealing->chunk_left == 0) end_chunk(sealing);
    }
}

static bool is_zeros(const uint8_t *data, size_t length)
{
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Past the page cache where the file system can: what counts is what the disk has. */
static ssize_t read_piece(const struct sealing *sealing, uint64_t offset)
{
    int data = sealing->files.data;
    ssize_t count = read_fully_at(data, sealing->piece, PIECE_LENGTH, offset);
    if (count >= 0 || errno != EINVAL) return count;
    if (fcntl(data, F_SETFL, 0) < 0) return -1;
    posix_fadvise(data, 0, 0, POSIX_FADV_DONTNEED);
    return read_fully_at(data, sealing->piece, PIECE_LENGTH, offset);
}

static int take_piece(struct sealing *sealing, uint64_t offset, struct error **error)
{
    const struct layer_seal *seal = sealing->seal;
    uint64_t left = length_of_layer(sealing) - offset;
    ssize_t count = read_piece(sealing, offset);
    if (count < 0 && errno == EIO && lose_chunk(sealing, sealing->chunk))
        return error_set(error, ERROR_NOT_FOUND,
                         "the disk cannot read chunk %u of layer %s, which is removed",
                         sealing->chunk, sealing->files.name);
    if (count < 0)
        return error_set_errno(error, errno, "read layer %s in the cache", sealing->files.name);
    size_t length = (uint64_t)count < left ? (size_t)count : (size_t)left;
    uint64_t expected = sealing->files.data_length - offset;
    if ((uint64_t)count != (expected < PIECE_LENGTH ? expected : PIECE_LENGTH) ||
        !is_zeros(sealing->piece + length, (size_t)count - length))
        return error_set(error, ERROR_NOT_FOUND, "layer %s in the cache was cut off or written to",
                         sealing->files.name);
    digest_stream_update(sealing->stream, sealing->piece, length);
    hash_chunks(sealing, sealing->piece, length);
    if (sealing->damaged > 0 || !seal->read) return 0;
    return seal->read(seal->context, sealing->piece, length, error);
}

/* ---- all of it ---- */

static int read_all(struct sealing *sealing, struct error **error)
{
    for (uint64_t offset = 0; offset < length_of_layer(sealing); offset += PIECE_LENGTH) {
        if (atomic_load(sealing->seal->cancel))
            return error_set(error, ERROR_CANCELLED, "layer %s was not read to its end",
                             sealing->files.name);
        if (take_piece(sealing, offset, error) < 0) return -1;
    }
    return 0;
}

static int check(struct sealing *sealing, struct seal_record *record, struct error **error)
{
    char found[DIGEST_TEXT_SIZE], expected[DIGEST_TEXT_SIZE];
    const struct layer_seal *seal = sealing->seal;
    if (sealing->damaged > 0)
        return error_set(error, ERROR_NOT_FOUND,
                         "%u chunks of layer %s were damaged in the cache, and are removed",
                         sealing->damaged, sealing->files.name);
    digest_stream_finish(sealing->stream, &record->stream);
    if (!digest_equal(&record->stream, &seal->stream))
        return error_set(error, ERROR_INVALID, "the stream has digest %s and not %s",
                         digest_format(&record->stream, found),
                         digest_format(&seal->stream, expected));
    return seal->end ? seal->end(seal->context, &record->note, error) : 0;
}

static bool all_there(const struct layer_files *files, uint32_t *ret_generations)
{
    for (uint32_t i = 0; i < files->chunk_count; i++) {
        uint32_t generation = layer_files_generation(files, i);
        if (generation == 0) return false;
        if (ret_generations) ret_generations[i] = generation;
    }
    return true;
}

static bool unchanged(const struct sealing *sealing)
{
    for (uint32_t i = 0; i < sealing->files.chunk_count; i++)
        if (layer_files_generation(&sealing->files, i) != sealing->generations[i]) return false;
    return true;
}

static int changed_meanwhile(const struct sealing *sealing, struct error **error)
{
    return error_set_errno(error, EAGAIN, "layer %s in the cache changed while it was read",
                           sealing->files.name);
}

/* With the locks of all chunks. */
static int seal_locked(struct cache *cache, struct sealing *sealing, struct error **error)
{
    const struct layer_files *files = &sealing->files;
    struct stat before, after;
    struct seal_record record = { 0 };
    if (!all_there(files, sealing->generations))
        return error_set(error, ERROR_NOT_FOUND, "chunks of layer %s are not in the cache",
                         files->name);
    if (fsync(files->data) < 0 || fstat(files->data, &before) < 0)
        return error_set_errno(error, errno, "flush layer %s in the cache", files->name);
    sealing->chunk_left = files->chunk_count > 0 ? files->lengths[0] : 0;
    if (read_all(sealing, error) < 0 || check(sealing, &record, error) < 0) return -1;
    /* Which chunks are there has to be on the disk, too, or a power failure takes the layer back to
     * being incomplete. */
    if (fsync(files->chunks) < 0 || fstat(files->data, &after) < 0)
        return error_set_errno(error, errno, "flush layer %s in the cache", files->name);
    if (!unchanged(sealing) || !seal_same_file(&before, &after))
        return changed_meanwhile(sealing, error);
    return seal_write(cache, files, &before, &record, error);
}

static int open_alone(struct cache *cache, const struct layer_files *opened,
                      struct sealing *sealing, struct error **error)
{
    struct stat theirs, ours;
    struct layer_files *files = &sealing->files;
    if (layer_files_look(cache, opened->name, files) < 0 || fstat(opened->data, &theirs) < 0 ||
        fstat(files->data, &ours) < 0 || theirs.st_ino != ours.st_ino)
        return error_set(error, ERROR_NOT_FOUND, "layer %s was replaced in the cache",
                         opened->name);
    fcntl(files->data, F_SETFL, O_DIRECT);
    sealing->generations = calloc((size_t)files->chunk_count + 1, sizeof *sealing->generations);
    sealing->piece = aligned_alloc(PIECE_ALIGNMENT, PIECE_LENGTH);
    sealing->stream = digest_stream_new();
    sealing->chunk_stream = digest_stream_new();
    if (!sealing->generations || !sealing->piece || !sealing->stream || !sealing->chunk_stream)
        return error_set_memory(error);
    return 0;
}

int layer_cache_seal(struct layer_cache *layer, const struct layer_seal *seal,
                     uint32_t *ret_damaged, struct error **error)
{
    struct cache *cache;
    const struct layer_files *opened = layer_cache_files(layer, &cache);
    struct sealing sealing = { .seal = seal, .files = LAYER_FILES_NONE };
    int result = -1;
    *ret_damaged = 0;
    if (!opened)
        error_set(error, ERROR_NOT_FOUND, "the layer is not in the cache");
    else if (open_alone(cache, opened, &sealing, error) < 0)
        ;
    else if (!layer_files_lock_chunks(&sealing.files, 0, sealing.files.chunk_count + 1))
        error_set_errno(error, EBUSY, "lock layer %s in the cache", opened->name);
    else
        result = seal_locked(cache, &sealing, error);
    *ret_damaged = sealing.damaged;
    layer_files_close(&sealing.files); /* and its locks with it */
    digest_stream_free(sealing.stream);
    digest_stream_free(sealing.chunk_stream);
    free(sealing.generations);
    free(sealing.piece);
    return result;
}

bool layer_cache_is_sealed(struct layer_cache *layer, struct digest *ret_note)
{
    struct cache *cache;
    struct seal_record record;
    const struct layer_files *files = layer_cache_files(layer, &cache);
    if (!files || !all_there(files, NULL) || !seal_read(cache, files, &record)) return false;
    *ret_note = record.note;
    return true;
}

/* With the lock, from which on nothing is taken away. */
static int lend(struct cache *cache, const struct layer_files *files, int *ret_descriptor,
                struct error **error)
{
    struct seal_record record;
    if (!all_there(files, NULL) || !seal_read(cache, files, &record))
        return error_set(error, ERROR_NOT_FOUND, "layer %s is not sealed", files->name);
    cleanup_close int descriptor = seal_open_data(cache, files);
    if (descriptor < 0)
        return error_set(error, ERROR_NOT_FOUND, "layer %s was replaced in the cache", files->name);
    if (seal_lend(cache, files, error) < 0) return -1;
    *ret_descriptor = take_descriptor(&descriptor);
    return 0;
}

int layer_cache_open_sealed(struct layer_cache *layer, int *ret_descriptor, struct error **error)
{
    struct cache *cache;
    const struct layer_files *files = layer_cache_files(layer, &cache);
    if (!files) return error_set(error, ERROR_NOT_FOUND, "the layer is not in the cache");
    for (unsigned attempt = 0; !layer_files_lock_data(files, false); attempt++) {
        if (attempt == LEND_ATTEMPTS)
            return error_set(error, ERROR_NOT_FOUND, "layer %s is being evicted", files->name);
        usleep(LEND_AGAIN_MS * 1000);
    }
    if (lend(cache, files, ret_descriptor, error) == 0) return 0;
    layer_files_unlock_data(files);
    return -1;
}

void layer_cache_drop(struct layer_cache *layer)
{
    struct cache *cache;
    const struct layer_files *files = layer_cache_files(layer, &cache);
    if (files) layer_files_drop(cache, files);
}
