/*
 * The node's cache directory. Everything in it may be lost or damaged at any
 * moment (or be somebody's attack): callers verify what they read, and the
 * worst that happens is a refetch. Several processes may use it at once.
 *
 *   blobs/<sha256 hex>     small parts of indexes, manifests, metadata
 *   names/<sha256 hex>     what a name last meant (small JSON texts)
 *   layers/<sha256 hex>/   data (sparse; offset = stream offset), present (a byte per chunk)
 *   temporary/             files that are being written
 *
 * The directory is made with mode 0700; one that others can write to, or that belongs to somebody
 * else, is refused.
 */
#ifndef SLUICE_CACHE_CACHE_H
#define SLUICE_CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"

/* Owns an io_uring and a thread that reaps it (where io_uring is forbidden: two
 * threads that do the same with pread and pwrite). */
struct cache;

int cache_open(struct cache **ret, const char *directory, struct error **error);
/* After every layer_cache is closed. */
void cache_free(struct cache *cache);
const char *cache_directory(const struct cache *cache);
/* Whether io_uring is in use, for status. */
bool cache_uses_io_uring(const struct cache *cache);

/* ---- small blobs ---- */
/* Verified against the digest; a damaged one is removed and ERROR_NOT_FOUND. */
int cache_get_blob(struct cache *cache, const struct digest *digest, size_t limit,
                   struct buffer *ret, struct error **error);
int cache_put_blob(struct cache *cache, const struct digest *digest, const void *data,
                   size_t length, struct error **error);
/* A read-only descriptor of the blob, not verified (for mmap; the caller hashes the mapping).
 * ERROR_NOT_FOUND when it is not there. */
int cache_open_blob(struct cache *cache, const struct digest *digest, int *ret_descriptor,
                    uint64_t *ret_length, struct error **error);
void cache_remove_blob(struct cache *cache, const struct digest *digest);

/* A blob that comes in pieces and is too large for memory. Nobody sees it before it is published.
 */
struct blob_writer;
int blob_writer_new(struct blob_writer **ret, struct cache *cache, struct error **error);
int blob_writer_append(struct blob_writer *writer, const void *data, size_t length,
                       struct error **error);
/* The caller has verified that what was written has this digest. */
int blob_writer_publish(struct blob_writer *writer, const struct digest *digest,
                        struct error **error);
/* Removes what was not published. NULL is fine. */
void blob_writer_free(struct blob_writer *writer);

/* ---- what names last meant ---- */
int cache_remember(struct cache *cache, const char *name, const void *data, size_t length,
                   struct error **error);
/* ERROR_NOT_FOUND when nothing is known. */
int cache_recall(struct cache *cache, const char *name, size_t limit, struct buffer *ret,
                 struct error **error);

/* ---- the chunks of a layer ---- */
struct layer_cache;

/* `key` identifies the layer *and* its chunk table (the digest of the encoded table): tables that
 * differ never share bytes. */
int layer_cache_open(struct cache *cache, const struct digest *key, uint64_t stream_length,
                     uint32_t chunk_count, struct layer_cache **ret, struct error **error);
/* Waits for the I/O that is under way. */
void layer_cache_close(struct layer_cache *layer);

/* Whether some process has stored the chunk. A hint: its bytes must be hashed by this process
 * before they are served (layer_device does, once per server's life). */
bool layer_cache_has(struct layer_cache *layer, uint32_t chunk);
/* Takes the mark away, here and on disk (damaged bytes). */
void layer_cache_forget(struct layer_cache *layer, uint32_t chunk);

/* `result` is the count of bytes (short only on damage) or a negative errno. May run on any thread;
 * must not wait. */
typedef void cache_done(void *context, ssize_t result);

/* Reads from the sparse file. Returns the count at once when the bytes are in the page cache
 * (`done` is then not called), or -EINPROGRESS after which `done` is called exactly once, or
 * another negative errno. `data` must stay until then. */
ssize_t layer_cache_read(struct layer_cache *layer, uint64_t offset, void *data, size_t length,
                         cache_done *done, void *context);
/* The count of the first bytes of the range that are in the page cache, copied to `data`; 0 when
 * none are; -EINVAL outside the stream. Never waits. */
ssize_t layer_cache_read_now(struct layer_cache *layer, uint64_t offset, void *data, size_t length);
/* Writes a verified chunk's bytes at `offset`, then marks it. `data` is borrowed until `done`. */
void layer_cache_store(struct layer_cache *layer, uint32_t chunk, uint64_t offset, const void *data,
                       size_t length, cache_done *done, void *context);
/* A chunk's range was served and is not likely to be asked for again through us (the kernel holds
 * what it asked for): once 32 others were served after it, its pages are dropped, so that memory
 * does not hold them twice. */
void layer_cache_drop_behind(struct layer_cache *layer, uint64_t offset, size_t length);

#endif
