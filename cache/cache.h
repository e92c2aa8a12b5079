/*
 * The node's cache directory. Everything in it may be lost or damaged at any
 * moment (or be somebody's attack): callers verify what they read, and the
 * worst that happens is a refetch. Several processes may use it at once.
 *
 *   blobs/<sha256 hex>     small parts of indexes, manifests, metadata
 *   names/<sha256 hex>     what a name last meant (small JSON texts)
 *   layers/<sha256 hex>/   data (sparse; offset = stream offset), chunks (which are there), sealed
 *                          (all of it was read back), lent (a kernel may have the file)
 *   refused/<sha256 hex>   why an index is not to be used
 *   users/                 what the servers that use the directory say of themselves
 *   temporary/             files that are being written
 *   usage, lock            bytes in use; locks among processes
 *
 * The directory is made with mode 0700; one that others can write to, or that belongs to somebody
 * else, is refused.
 */
#ifndef SLUICE_CACHE_CACHE_H
#define SLUICE_CACHE_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/mapping.h"

/* Owns an io_uring and a thread that reaps it (where io_uring is forbidden: two
 * threads that do the same with pread and pwrite). */
struct cache;

int cache_open(struct cache **ret, const char *directory, struct error **error);
/* After every layer_cache is closed, and every use ended. */
void cache_free(struct cache *cache);
const char *cache_directory(const struct cache *cache);
/* Whether io_uring is in use, for status. */
bool cache_uses_io_uring(const struct cache *cache);

/* ---- how much it may hold ---- */

struct cache_limits {
    uint64_t size;    /* bytes that the directory may take on the disk; 0: no bound */
    uint64_t reserve; /* bytes of the file system that are left free */
};
/* The reserve where nobody names one: 5 % of the file system, 1 GiB at the most. */
uint64_t cache_default_reserve(const struct cache *cache);
/*
 * From now on what was not used for longest makes room for what is stored. Without a call there is
 * no bound. Each process holds to its own limits: of several, the narrowest of those that store
 * holds for all. What is being written may go beyond the size for a moment.
 */
void cache_set_limits(struct cache *cache, const struct cache_limits *limits);
struct cache_limits cache_get_limits(const struct cache *cache);
/* Bytes that the directory takes on the disk, as far as is known without looking. */
uint64_t cache_usage(const struct cache *cache);
/* Bytes that can be stored before anything is evicted for them; UINT64_MAX: no bound is known. */
uint64_t cache_room_left(const struct cache *cache);

/* ---- who uses it ---- */

struct cache_use {
    long long pid; /* of the server; filled in by cache_declare_use() */
    const char *image, *mountpoint;
    struct cache_limits limits;  /* of its cache; filled in */
    const struct digest *needed; /* blobs, and SHA-256s of names: they are not evicted */
    size_t needed_count;
};
struct cache_user;
/* Holds until cache_end_use(), or until the process dies. What `*user` (or NULL) declared before
 * ends when this holds; a failure leaves it as it was. */
int cache_declare_use(struct cache *cache, const struct cache_use *use, struct cache_user **user,
                      struct error **error);
/* What was needed was used up to now. NULL is fine. */
void cache_end_use(struct cache_user *user);
/* What is shown is what the server said of itself: any text. */
typedef void cache_user_seen(void *context, const struct cache_use *use);
void cache_each_user(struct cache *cache, cache_user_seen *seen, void *context);

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
/* The first `length` bytes, for reading, with the file kept; it remains when the blob is published.
 * What has not been appended yet must not be looked at. */
int blob_writer_map(const struct blob_writer *writer, size_t length, struct mapping **ret,
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

/* ---- what was found to lie ---- */
/* What has this digest (an index) is not to be used on this node any more. `reason` is one line.
 * Nothing evicts the record. */
int cache_refuse(struct cache *cache, const struct digest *digest, const char *reason,
                 struct error **error);
/* The reason as text in fresh memory; NULL: it may be used. Anybody may have written the text. */
char *cache_refusal(struct cache *cache, const struct digest *digest);
void cache_end_refusal(struct cache *cache, const struct digest *digest);

/* ---- the chunks of a layer ---- */
struct layer_cache;

struct layer_shape {
    uint64_t stream_length;
    uint32_t chunk_count;
    const uint32_t *lengths; /* of the chunks, in their order */
    bool keep;               /* no chunk is evicted while this is open */
};
/* `key` identifies the layer *and* its chunk table (the digest of the encoded table): tables that
 * differ never share bytes. `shape` is copied. Where the files cannot be made (a full disk), a
 * warning says so, nothing is stored, and all else works. */
int layer_cache_open(struct cache *cache, const struct digest *key, const struct layer_shape *shape,
                     struct layer_cache **ret, struct error **error);
/* Waits for the I/O that is under way. */
void layer_cache_close(struct layer_cache *layer);

/*
 * A chunk that is stored has a generation, which each store and each eviction counts up, in every
 * process. What was read of it is worth something only if its generation is the same before and
 * after; and what this process knows of the bytes (that it hashed them, once in its life) holds for
 * one generation.
 */
/* The generation, or 0: no process has stored the chunk, or it was evicted. */
uint32_t layer_cache_generation(struct layer_cache *layer, uint32_t chunk);
/* Whether the chunk still is of that generation (not 0). */
bool layer_cache_holds(struct layer_cache *layer, uint32_t chunk, uint32_t generation);
/* The chunk's last use is now. */
void layer_cache_touch(struct layer_cache *layer, uint32_t chunk);
/* The bytes of that generation are damaged: they are no longer stored, for anybody. */
void layer_cache_forget(struct layer_cache *layer, uint32_t chunk, uint32_t generation);

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
/* `result`: `length`, and the generation that this process has verified by storing it; or a
 * negative errno (EBUSY: somebody else is storing it; EDQUOT, ENOSPC: there is no room) and 0. */
typedef void cache_stored(void *context, ssize_t result, uint32_t generation);
/* Writes a verified chunk's bytes at `offset`, then marks it. `data` is borrowed until `done`,
 * which may run on any thread and must not wait. */
void layer_cache_store(struct layer_cache *layer, uint32_t chunk, uint64_t offset, const void *data,
                       size_t length, cache_stored *done, void *context);
/* A chunk's range was served and is not likely to be asked for again through us (the kernel holds
 * what it asked for): once 32 others were served after it, its pages are dropped, so that memory
 * does not hold them twice. */
void layer_cache_drop_behind(struct layer_cache *layer, uint64_t offset, size_t length);

/* ---- layers that are complete ---- */

/*
 * A layer is sealed when all of its chunks were read back from the disk and were right. The seal
 * holds as long as the data file is not changed, also in other processes and after a restart. Such
 * a file may be given to the kernel.
 */
struct layer_seal {
    const struct digest *chunks; /* the digests of the layer's chunks */
    struct digest stream;        /* of all of it */
    /* Gets the stream's bytes in their order, before it is known whether they are right. -1 is the
     * end of it. NULL: nobody wants them. */
    int (*read)(void *context, const void *data, size_t length, struct error **error);
    /* All bytes were right. `ret_note` is what the caller made of them, and is kept with the seal;
     * -1: it shall have none. NULL: the note is zeros. */
    int (*end)(void *context, struct digest *ret_note, struct error **error);
    void *context;
    const atomic_bool *cancel; /* looked at now and then */
};
/*
 * Flushes the layer, reads all of it past the page cache on this thread, and seals it.
 * ERROR_NOT_FOUND: chunks are not there, or `ret_damaged` of them were damaged and are stored no
 * more. ERROR_INVALID: every chunk is right, and the stream has another digest. ERROR_CANCELLED.
 * ERROR_SYSTEM: not now, EBUSY where somebody stores or evicts or seals; or what `read` and `end`
 * say.
 */
int layer_cache_seal(struct layer_cache *layer, const struct layer_seal *seal,
                     uint32_t *ret_damaged, struct error **error);
bool layer_cache_is_sealed(struct layer_cache *layer, struct digest *ret_note);
/*
 * A read-only descriptor of a sealed layer's data file, for the kernel: the stream, then zeros to a
 * multiple of 4096 bytes. Until layer_cache_close() nothing of the file is evicted by any process;
 * afterwards, and also where this process is killed, it is evicted as a whole only, so that who has
 * it open keeps all of it. ERROR_NOT_FOUND: the layer is not sealed.
 */
int layer_cache_open_sealed(struct layer_cache *layer, int *ret_descriptor, struct error **error);
/* Takes all of the layer's files away, whoever uses them; nothing more is stored in them. */
void layer_cache_drop(struct layer_cache *layer);

/* Whether anything is stored for a layer of that key. */
bool cache_has_layer(struct cache *cache, const struct digest *key);

/* ---- what nobody needs any more ---- */

/*
 * Removes what has these digests, be it a layer (with all of its files), a blob, or the name with
 * that SHA-256. What a process uses stays: `digests` begins with those afterwards, and the count of
 * them is returned.
 */
size_t cache_give_back(struct cache *cache, struct digest *digests, size_t count);

/* ---- looking after it ---- */

/* All of these are true of a moment only, where servers are at work. */

struct cache_layer_info {
    struct digest key;
    uint64_t stream_length;
    uint64_t stored;  /* bytes of chunks that are here */
    uint64_t on_disk; /* bytes */
    uint32_t chunk_count, chunks_stored;
    uint32_t last_use; /* seconds since 1970; 0: not known */
    bool in_use;       /* a server has it open */
    bool sealed;
};
typedef void cache_layer_seen(void *context, const struct cache_layer_info *info);
void cache_each_layer(struct cache *cache, cache_layer_seen *seen, void *context);

/* What cache_remember() was given last, for each name. */
typedef void cache_name_seen(void *context, const char *name, const char *text, size_t length);
void cache_each_name(struct cache *cache, cache_name_seen *seen, void *context);

struct cache_sizes {
    uint64_t on_disk; /* bytes, of all */
    uint64_t layers, blobs, names;
    uint32_t layer_count, blob_count, name_count;
};
void cache_measure(struct cache *cache, struct cache_sizes *ret);

/* Evicts what no mount uses, the oldest first, until no more than `keep` bytes are taken. */
int cache_prune(struct cache *cache, uint64_t keep, uint64_t *ret_freed, struct error **error);

struct cache_verified {
    uint64_t chunks, bytes, blobs, names; /* that were looked at */
    uint64_t damaged;
};
/* `what` is damaged, and removed. */
typedef void cache_damage_seen(void *context, const char *what);
/* Hashes blobs and names. Adds to `ret`. */
void cache_verify_files(struct cache *cache, cache_damage_seen *seen, void *context,
                        struct cache_verified *ret);
/* Hashes the chunks of a layer as the disk has them; `digests` are those of its chunks. One that is
 * damaged breaks the seal. ERROR_NOT_FOUND: there is no such layer of that shape. */
int cache_verify_layer(struct cache *cache, const struct digest *key,
                       const struct layer_shape *shape, const struct digest *digests,
                       cache_damage_seen *seen, void *context, struct cache_verified *ret,
                       struct error **error);

#endif
