#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "snapshotter/database-internal.h"
#include "snapshotter/snapshot_store-internal.h"

#define SCHEMA_VERSION 1

/* AUTOINCREMENT: an id names a directory, and is never used again. */
static const char schema[] =
    "CREATE TABLE snapshots ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " name TEXT NOT NULL UNIQUE,"
    " parent INTEGER REFERENCES snapshots (id),"
    " kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 3),"
    " created INTEGER NOT NULL,"
    " updated INTEGER NOT NULL,"
    " size INTEGER NOT NULL CHECK (size >= 0),"
    " inodes INTEGER NOT NULL CHECK (inodes >= 0),"
    " image INTEGER NOT NULL,"
    " layers INTEGER NOT NULL CHECK (layers BETWEEN 0 AND 4294967295)"
    ") STRICT;"
    "CREATE INDEX snapshots_by_parent ON snapshots (parent);"
    "CREATE INDEX snapshots_by_image ON snapshots (image) WHERE image <> 0;"
    "CREATE TABLE labels ("
    " snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,"
    " key TEXT NOT NULL,"
    " value TEXT NOT NULL,"
    " PRIMARY KEY (snapshot, key)"
    ") STRICT, WITHOUT ROWID;";

/* A chain longer than this goes in a circle; overlayfs takes 500 directories. */
#define CHAIN_MAX 100000

struct snapshot_store {
    pthread_mutex_t lock; /* recursive */
    struct database *database;
};

void snapshot_record_free(struct snapshot_record *record)
{
    snapshot_info_free(&record->info);
}

void snapshot_chain_free(struct snapshot_chain *chain)
{
    free(chain->ids);
    *chain = (struct snapshot_chain){ 0 };
}

int snapshot_store_open(struct snapshot_store **ret, const char *path, struct error **error)
{
    struct snapshot_store *store = calloc(1, sizeof *store);
    if (!store) return error_set_memory(error);
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&store->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    if (database_open(&store->database, path, schema, SCHEMA_VERSION, error) < 0) {
        snapshot_store_close(store);
        return -1;
    }
    *ret = store;
    return 0;
}

void snapshot_store_close(struct snapshot_store *store)
{
    if (!store) return;
    database_close(store->database);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

void snapshot_store_lock(struct snapshot_store *store)
{
    pthread_mutex_lock(&store->lock);
}

void snapshot_store_unlock(struct snapshot_store *store)
{
    pthread_mutex_unlock(&store->lock);
}

static void unlock_store(struct snapshot_store *const *store)
{
    snapshot_store_unlock(*store);
}

/* Until the block is left. */
#define HOLD_LOCK(store)                                                                   \
    struct snapshot_store *held_ __attribute__((cleanup(unlock_store), unused)) = (store); \
    snapshot_store_lock(held_)

int snapshot_store_begin(struct snapshot_store *store, struct error **error)
{
    snapshot_store_lock(store);
    if (database_begin(store->database, error) == 0) return 0;
    snapshot_store_unlock(store);
    return -1;
}

int snapshot_store_commit(struct snapshot_store *store, struct error **error)
{
    int result = database_commit(store->database, error);
    snapshot_store_unlock(store);
    return result;
}

void snapshot_store_rollback(struct snapshot_store *store)
{
    database_rollback(store->database);
    snapshot_store_unlock(store);
}

#define RECORD_COLUMNS                                                                        \
    "SELECT s.id, s.name, s.parent, p.name, s.kind, s.created, s.updated, s.size, s.inodes, " \
    "s.image, s.layers FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent "

#define SECOND INT64_C(1000000000)

static struct timespec time_of(int64_t nanoseconds)
{
    return (struct timespec){ nanoseconds / SECOND, nanoseconds % SECOND };
}

static int64_t nanoseconds_of(struct timespec time)
{
    return time.tv_sec * SECOND + time.tv_nsec;
}

static char *copy_text(struct snapshot_store *store, sqlite3_stmt *row, int column,
                       struct error **error)
{
    const char *text = database_text(store->database, row, column, error);
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy) error_set_memory(error);
    return copy;
}

static int read_labels(struct snapshot_store *store, int64_t id, struct labels *ret,
                       struct error **error)
{
    struct database *database = store->database;
    cleanup_statement sqlite3_stmt *rows = database_query(
        database, error, "SELECT key, value FROM labels WHERE snapshot = ?", "i", id);
    if (!rows) return -1;
    int more;
    while ((more = database_step(database, rows, error)) == 1) {
        const char *key = database_text(database, rows, 0, error);
        const char *value = key ? database_text(database, rows, 1, error) : NULL;
        if (!value || labels_set(ret, key, value, error) < 0) return -1;
    }
    return more;
}

static int read_record(struct snapshot_store *store, sqlite3_stmt *row, struct snapshot_record *ret,
                       struct error **error)
{
    int64_t kind = sqlite3_column_int64(row, 4);
    if (kind < SNAPSHOT_VIEW || kind > SNAPSHOT_COMMITTED)
        return database_damaged(store->database, "a snapshot of no known kind", error);
    *ret = (struct snapshot_record){
        .id = sqlite3_column_int64(row, 0),
        .parent = sqlite3_column_int64(row, 2),
        .use = { (uint64_t)sqlite3_column_int64(row, 9), (uint32_t)sqlite3_column_int64(row, 10) },
        .usage = { (uint64_t)sqlite3_column_int64(row, 7), (uint64_t)sqlite3_column_int64(row, 8) },
        .info = { .kind = (enum snapshot_kind)kind,
                  .created = time_of(sqlite3_column_int64(row, 5)),
                  .updated = time_of(sqlite3_column_int64(row, 6)) },
    };
    ret->info.name = copy_text(store, row, 1, error);
    ret->info.parent = ret->info.name ? copy_text(store, row, 3, error) : NULL;
    if (ret->info.parent && read_labels(store, ret->id, &ret->info.labels, error) == 0) return 0;
    snapshot_record_free(ret);
    return -1;
}

int snapshot_store_find(struct snapshot_store *store, const char *name, struct snapshot_record *ret,
                        struct error **error)
{
    HOLD_LOCK(store);
    cleanup_statement sqlite3_stmt *row =
        database_query(store->database, error, RECORD_COLUMNS "WHERE s.name = ?", "s", name);
    if (!row) return -1;
    int more = database_step(store->database, row, error);
    if (more < 0) return -1;
    if (!more) return error_set(error, ERROR_NOT_FOUND, "snapshot '%s' does not exist", name);
    return read_record(store, row, ret, error);
}

int snapshot_store_page(struct snapshot_store *store, int64_t after, struct snapshot_record *ret,
                        size_t room, struct error **error)
{
    HOLD_LOCK(store);
    cleanup_statement sqlite3_stmt *rows = database_query(
        store->database, error, RECORD_COLUMNS "WHERE s.id > ? ORDER BY s.id LIMIT ?", "ii", after,
        (int64_t)room);
    if (!rows) return -1;
    int count = 0, more = 0;
    while ((size_t)count < room && (more = database_step(store->database, rows, error)) == 1) {
        if (read_record(store, rows, &ret[count], error) < 0) {
            more = -1;
            break;
        }
        count++;
    }
    if (more >= 0) return count;
    for (int i = 0; i < count; i++)
        snapshot_record_free(&ret[i]);
    return -1;
}

/* 1: the query has a row. Takes the statement. */
static int has_row(struct snapshot_store *store, sqlite3_stmt *made, struct error **error)
{
    cleanup_statement sqlite3_stmt *statement = made;
    return statement ? database_step(store->database, statement, error) : -1;
}

int snapshot_store_has_name(struct snapshot_store *store, const char *name, struct error **error)
{
    HOLD_LOCK(store);
    return has_row(
        store,
        database_query(store->database, error, "SELECT 1 FROM snapshots WHERE name = ?", "s", name),
        error);
}

int snapshot_store_has_id(struct snapshot_store *store, int64_t id, struct error **error)
{
    HOLD_LOCK(store);
    return has_row(
        store,
        database_query(store->database, error, "SELECT 1 FROM snapshots WHERE id = ?", "i", id),
        error);
}

int snapshot_store_has_children(struct snapshot_store *store, int64_t id, struct error **error)
{
    HOLD_LOCK(store);
    return has_row(store,
                   database_query(store->database, error,
                                  "SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", "i", id),
                   error);
}

int snapshot_store_has_lazy(struct snapshot_store *store, const char *reference, int64_t parent,
                            struct error **error)
{
    HOLD_LOCK(store);
    return has_row(store,
                   database_query(store->database, error,
                                  "SELECT 1 FROM snapshots s JOIN labels l ON l.snapshot = s.id "
                                  "WHERE s.parent IS nullif(?, 0) AND s.kind = ? AND s.image <> 0 "
                                  "AND l.key = ? AND l.value = ? LIMIT 1",
                                  "iiss", parent, (int64_t)SNAPSHOT_COMMITTED, LABEL_SNAPSHOT_REF,
                                  reference),
                   error);
}

static int chain_add(struct snapshot_chain *chain, int64_t id, struct error **error)
{
    if ((chain->count & (chain->count - 1)) == 0) {
        size_t room = chain->count ? 2 * chain->count : 1;
        int64_t *ids = realloc(chain->ids, room * sizeof *ids);
        if (!ids) return error_set_memory(error);
        chain->ids = ids;
    }
    chain->ids[chain->count++] = id;
    return 0;
}

/* Adds `id` and gives what is below it; 0: nothing. */
static int chain_step(struct snapshot_store *store, int64_t *id, struct snapshot_chain *chain,
                      struct error **error)
{
    cleanup_statement sqlite3_stmt *row =
        database_query(store->database, error,
                       "SELECT parent, image, layers FROM snapshots WHERE id = ?", "i", *id);
    if (!row) return -1;
    int more = database_step(store->database, row, error);
    if (more < 0) return -1;
    if (!more || chain->count > CHAIN_MAX)
        return database_damaged(store->database, "a chain of snapshots has no end", error);
    uint64_t image = (uint64_t)sqlite3_column_int64(row, 1);
    if (image) {
        chain->use = (struct lazy_use){ image, (uint32_t)sqlite3_column_int64(row, 2) };
        *id = 0;
        return 0;
    }
    int64_t below = sqlite3_column_int64(row, 0);
    if (chain_add(chain, *id, error) < 0) return -1;
    *id = below;
    return 0;
}

int snapshot_store_chain(struct snapshot_store *store, int64_t id, struct snapshot_chain *ret,
                         struct error **error)
{
    HOLD_LOCK(store);
    struct snapshot_chain chain = { 0 };
    while (id) {
        if (chain_step(store, &id, &chain, error) == 0) continue;
        snapshot_chain_free(&chain);
        return -1;
    }
    *ret = chain;
    return 0;
}

int snapshot_store_uses(struct snapshot_store *store, struct lazy_use **ret, size_t *ret_count,
                        struct error **error)
{
    HOLD_LOCK(store);
    struct database *database = store->database;
    cleanup_free struct lazy_use *uses = NULL;
    size_t count = 0;
    cleanup_statement sqlite3_stmt *rows = database_query(
        database, error, "SELECT DISTINCT image, layers FROM snapshots WHERE image <> 0", "");
    if (!rows) return -1;
    int more;
    while ((more = database_step(database, rows, error)) == 1) {
        struct lazy_use *grown = realloc(uses, (count + 1) * sizeof *uses);
        if (!grown) return error_set_memory(error);
        uses = grown;
        uses[count++] = (struct lazy_use){ (uint64_t)sqlite3_column_int64(rows, 0),
                                           (uint32_t)sqlite3_column_int64(rows, 1) };
    }
    if (more < 0) return -1;
    *ret = take_pointer(&uses);
    *ret_count = count;
    return 0;
}

int64_t snapshot_store_count_uses(struct snapshot_store *store, uint64_t image,
                                  struct error **error)
{
    HOLD_LOCK(store);
    cleanup_statement sqlite3_stmt *row = database_query(
        store->database, error, "SELECT count(*) FROM snapshots WHERE image <> 0 AND image = ?",
        "i", (int64_t)image);
    if (!row || database_step(store->database, row, error) < 0) return -1;
    return sqlite3_column_int64(row, 0);
}

static int write_labels(struct snapshot_store *store, int64_t id, const struct labels *labels,
                        struct error **error)
{
    for (size_t i = 0; i < labels->count; i++) {
        const struct label *label = &labels->entries[i];
        if (database_run(store->database, error, "INSERT INTO labels VALUES (?, ?, ?)", "iss", id,
                         label->key, label->value) < 0)
            return -1;
    }
    return 0;
}

int snapshot_store_insert(struct snapshot_store *store, struct snapshot_record *record,
                          struct error **error)
{
    HOLD_LOCK(store);
    const struct snapshot_info *info = &record->info;
    if (database_run(store->database, error,
                     "INSERT INTO snapshots (name, parent, kind, created, updated, size, inodes, "
                     "image, layers) VALUES (?, nullif(?, 0), ?, ?, ?, 0, 0, ?, ?)",
                     "siiiiii", info->name, record->parent, (int64_t)info->kind,
                     nanoseconds_of(info->created), nanoseconds_of(info->updated),
                     (int64_t)record->use.image, (int64_t)record->use.layers) < 0)
        return -1;
    record->id = database_new_id(store->database);
    return write_labels(store, record->id, &info->labels, error);
}

int snapshot_store_update(struct snapshot_store *store, const struct snapshot_record *record,
                          struct error **error)
{
    HOLD_LOCK(store);
    const struct snapshot_info *info = &record->info;
    if (database_run(store->database, error,
                     "UPDATE snapshots SET name = ?, parent = nullif(?, 0), kind = ?, created = ?, "
                     "updated = ?, size = ?, inodes = ? WHERE id = ?",
                     "siiiiiii", info->name, record->parent, (int64_t)info->kind,
                     nanoseconds_of(info->created), nanoseconds_of(info->updated),
                     (int64_t)record->usage.size, (int64_t)record->usage.inodes, record->id) < 0 ||
        database_run(store->database, error, "DELETE FROM labels WHERE snapshot = ?", "i",
                     record->id) < 0)
        return -1;
    return write_labels(store, record->id, &info->labels, error);
}

int snapshot_store_delete(struct snapshot_store *store, int64_t id, struct error **error)
{
    HOLD_LOCK(store);
    return database_run(store->database, error, "DELETE FROM snapshots WHERE id = ?", "i", id);
}
