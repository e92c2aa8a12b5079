/*
 * The snapshots' rows: names, chains, labels, and what lazy ones show. It knows nothing of
 * directories.
 *
 * Every function may be called by any thread. Whoever does several things that belong together
 * holds the lock, which may be taken again by who has it; a transaction holds it from begin to
 * commit or rollback.
 */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOT_STORE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_SNAPSHOT_STORE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshotter/snapshotter.h"

struct snapshot_record {
    int64_t id;
    int64_t parent;      /* 0: none */
    struct lazy_use use; /* image 0: an ordinary snapshot */
    struct snapshot_usage usage;
    struct snapshot_info info;
};

void snapshot_record_free(struct snapshot_record *record);
#define cleanup_snapshot_record __attribute__((cleanup(snapshot_record_free)))

/* Snapshots from the top down: ordinary ones, and below them at most one that is lazy. */
struct snapshot_chain {
    int64_t *ids; /* owned */
    size_t count;
    struct lazy_use use; /* image 0: none */
};

void snapshot_chain_free(struct snapshot_chain *chain);
#define cleanup_snapshot_chain __attribute__((cleanup(snapshot_chain_free)))

struct snapshot_store;

int snapshot_store_open(struct snapshot_store **ret, const char *path, struct error **error);
void snapshot_store_close(struct snapshot_store *store);

void snapshot_store_lock(struct snapshot_store *store);
void snapshot_store_unlock(struct snapshot_store *store);
int snapshot_store_begin(struct snapshot_store *store, struct error **error);
/* After a failure the rows are as before. */
int snapshot_store_commit(struct snapshot_store *store, struct error **error);
void snapshot_store_rollback(struct snapshot_store *store);

/* ERROR_NOT_FOUND. */
int snapshot_store_find(struct snapshot_store *store, const char *name, struct snapshot_record *ret,
                        struct error **error);
/* 1: there is one of this name; 0; -1. */
int snapshot_store_has_name(struct snapshot_store *store, const char *name, struct error **error);
int snapshot_store_has_id(struct snapshot_store *store, int64_t id, struct error **error);
int snapshot_store_has_children(struct snapshot_store *store, int64_t id, struct error **error);
/* 1: a lazy committed snapshot with this parent and the label containerd.io/snapshot.ref. */
int snapshot_store_has_lazy(struct snapshot_store *store, const char *reference, int64_t parent,
                            struct error **error);
/* From `id` down. */
int snapshot_store_chain(struct snapshot_store *store, int64_t id, struct snapshot_chain *ret,
                         struct error **error);
/* Up to `room` records with ids above `after`, in their order; how many, or -1. */
int snapshot_store_page(struct snapshot_store *store, int64_t after, struct snapshot_record *ret,
                        size_t room, struct error **error);
/* What lazy snapshots show, each once; `ret` is fresh memory. */
int snapshot_store_uses(struct snapshot_store *store, struct lazy_use **ret, size_t *ret_count,
                        struct error **error);
/* How many snapshots show an image; -1. */
int64_t snapshot_store_count_uses(struct snapshot_store *store, uint64_t image,
                                  struct error **error);

/* These belong into transactions. `record` is written as it is; inserting sets its id, and says
 * nothing of usage. */
int snapshot_store_insert(struct snapshot_store *store, struct snapshot_record *record,
                          struct error **error);
/* What a snapshot shows never changes. */
int snapshot_store_update(struct snapshot_store *store, const struct snapshot_record *record,
                          struct error **error);
int snapshot_store_delete(struct snapshot_store *store, int64_t id, struct error **error);

#endif
