/*
 * The data path: reads of a layer's stream, from the cache or the registry.
 *
 * A hit is answered at once. A miss is parked on its chunk; there is one fetch
 * per chunk whoever asks, and chunks that are wanted and adjacent are fetched
 * in one range. Nobody waits: answers come from whichever thread completes.
 * Every chunk is verified (SHA-256) before it is stored or served; one found on
 * disk is hashed before its first use in this process, and fetched again if
 * damaged. Memory is bounded by `memory_limit`, whatever is asked.
 */
#ifndef SLUICE_FUSE_LAYER_DEVICE_H
#define SLUICE_FUSE_LAYER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "cache/cache.h"
#include "fetcher/registry.h"
#include "fuse/device_reader.h"
#include "index/chunk_table.h"

/* What all devices of a server share: worker threads, memory budget, counters. */
struct data_path;

struct data_path_options {
    size_t memory_limit;       /* bytes of fetched and decoded data held at once; 0: 32 MiB */
    unsigned read_timeout_ms;  /* a parked read ends with EIO after this; 0: 60,000 */
    unsigned workers;          /* threads that decode and hash; 0: the number of cores, at most 4 */
    unsigned ranges_in_flight; /* range requests at once; 0: 8 */
    bool neighbours;           /* of what a reader misses come along while the link is idle */
};

/* `client` and `cache` are borrowed and must outlive it. `options` may be NULL. */
int data_path_new(struct data_path **ret, struct registry_client *client, struct cache *cache,
                  const struct data_path_options *options, struct error **error);
/* After every device is closed. */
void data_path_free(struct data_path *path);

struct data_path_statistics {
    uint64_t chunks_fetched, bytes_fetched; /* from the registry: blob bytes */
    uint64_t bytes_decoded;
    uint64_t reads_hit, reads_missed; /* reads answered from the cache / parked */
    uint64_t bytes_served;
    uint64_t chunks_in_flight, reads_waiting; /* now */
    uint64_t oldest_wait_ms;                  /* of those reads */
    uint64_t window_bytes_fetched;
    uint64_t chunks_damaged; /* found damaged on disk or in an answer */
    uint64_t read_errors;    /* reads that ended in EIO */
    uint64_t store_errors;   /* chunks served but not stored (disk full) */
};
void data_path_statistics(struct data_path *path, struct data_path_statistics *ret);
/* Waits until nobody is at work on what all reads share; so it does not return where that hangs. */
void data_path_pass(struct data_path *path);
/* Milliseconds since a read last had to wait for the registry, or since the path was made. */
uint64_t data_path_idle_ms(struct data_path *path);
/* The newest reason for an EIO as a line in fresh memory, and its age (which may be NULL); NULL
 * when there was none. */
char *data_path_last_error(struct data_path *path, uint64_t *ret_age_ms);
/* How long the oldest of a reader's reads has waited; 0: none waits. */
uint64_t data_path_oldest_wait_ms(struct data_path *path, const struct device_reader *reader);

/* A reason for reads that fail outside of devices: becomes the newest. */
void data_path_note_error(struct data_path *path, const char *reason);

struct layer_device;

/* Who is told of the first read of each chunk since its device was opened: from any thread, not
 * under the lock; must not wait. `offset` is where in the stream the read begins, or the chunk. */
struct chunk_recorder {
    void (*touched)(void *context, struct layer_device *device, uint32_t chunk, uint64_t offset);
    void *context;
};
/* While nothing is read: before the tree is usable, or after. NULL takes it away. */
void data_path_set_recorder(struct data_path *path, const struct chunk_recorder *recorder);

struct layer_device_source {
    const char *registry, *repository; /* copied */
    const struct chunk_table *table;   /* borrowed, must outlive the device */
    struct digest table_digest;        /* of the encoded table: the cache's key */
    struct digest windows_digest;      /* of the windows blob; used when table->group_count > 0 */
};
/* ERROR_INVALID: the table cannot be (chunk_table_decode() would not make it), or has chunks below
 * 4 KiB other than the last, which no rule makes. */
int layer_device_open(struct data_path *path, const struct layer_device_source *source,
                      struct layer_device **ret, struct error **error);
/* Parked reads end with EIO first; waits for disk and decoder, but not for the network. No callback
 * comes after it. NULL is fine. */
void layer_device_close(struct layer_device *device);

/* The layer can be had there, too; it is asked for there when it is refused, or not found, where it
 * was asked for before. Both are copied. Without memory nothing changes. */
void layer_device_add_place(struct layer_device *device, const char *registry,
                            const char *repository);
/* The same, and that is where it is asked for first from now on. */
void layer_device_move(struct layer_device *device, const char *registry, const char *repository);

/* How much of the layer the node has. */
void layer_device_presence(struct layer_device *device, uint32_t *ret_chunks_present,
                           uint64_t *ret_bytes_present);

struct layer_device_statistics {
    uint64_t chunks_fetched, bytes_fetched; /* since it was opened: blob bytes */
};
void layer_device_statistics(struct layer_device *device, struct layer_device_statistics *ret);
/* As data_path_last_error(), of reads of this layer. */
char *layer_device_last_error(struct layer_device *device, uint64_t *ret_age_ms);

/* Whether somebody has read (or waits for) a byte of the chunk since the device was opened. */
bool layer_device_was_read(const struct layer_device *device, uint32_t chunk);
/* The layer's place in the cache, for as long as the device is open. */
struct layer_cache *layer_device_cache(struct layer_device *device);
/* The layer's bytes are not to be believed, in whatever image: from now on every read is EIO, and
 * `reason` (one line) is the newest error. */
void layer_device_refuse(struct layer_device *device, const char *reason);

/* `data` holds `result` bytes and is valid during the call only; or `result` is a negative errno.
 * Called exactly once, perhaps before layer_device_read() returns, on any thread; must not wait. */
typedef void device_read_done(void *context, const void *data, ssize_t result);
/* Bytes [offset, offset + length) of the stream; bytes past its end read as zeros. `length` is at
 * most 4 MiB. `reader`, for whom it is, or NULL. */
void layer_device_read(struct layer_device *device, struct device_reader *reader, uint64_t offset,
                       size_t length, device_read_done *done, void *context);

/*
 * Chunks that nobody waits for come from supplies, which the data path asks
 * whenever demand leaves room: first what readers wait for, then each kind in
 * this order. Those of a kind share what it may have under way. Neighbours that
 * a supply names soon after each other come in one range, so it is best to name
 * them in the blob's order.
 */
enum supply_kind { SUPPLY_PROFILE, SUPPLY_FILL, SUPPLY_KINDS };

struct chunk_supply {
    /* The next chunk; false: none for now, and data_path_wake() when there is. Under the data
     * path's lock: must neither wait nor call anything of the data path. A device must stay open
     * until its chunks came back or the supply is taken away. */
    bool (*next)(void *context, struct layer_device **ret_device, uint32_t *ret_chunk);
    /* Each chunk that was handed out comes back once. 0: it is stored, though what was found on
     * disk is not hashed here. Else a negative errno: -EINVAL (no such chunk), -EIO (it could not
     * be fetched), -ENOSPC, -EDQUOT and others of the disk (it could not be stored), -EBUSY
     * (another server is storing it this moment), -ENOMEM, -ECANCELED (its device closes). Nothing
     * is tried again by itself. On any thread, not under the lock; must not wait. Calls of the
     * data path are allowed but for taking the supply away. May be NULL. */
    void (*done)(void *context, struct layer_device *device, uint32_t chunk, int result);
    void *context;
};

struct supply;
/* `supply` is copied. */
int data_path_add_supply(struct data_path *path, enum supply_kind kind,
                         const struct chunk_supply *supply, struct supply **ret,
                         struct error **error);
/* No callback comes once this has returned. NULL is fine. */
void data_path_remove_supply(struct data_path *path, struct supply *supply);
/* A supply that had nothing has something now. Not from next(). */
void data_path_wake(struct data_path *path);
/* A bound of what is fetched for SUPPLY_FILL, in bytes of blobs a second; 0: none. */
void data_path_set_fill_rate(struct data_path *path, uint64_t bytes_per_second);

#endif
