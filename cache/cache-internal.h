/* What the files of this folder share. */
#ifndef SLUICE_CACHE_CACHE_INTERNAL_H
#define SLUICE_CACHE_CACHE_INTERNAL_H

#include <pthread.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/ring.h"

struct room;

struct cache {
    char *directory;
    int root, blobs, names, layers, users, temporary, refused; /* descriptors of the directories */
    int lock;                 /* of the file whose bytes are the locks of enum cache_lock */
    pthread_mutex_t locks[2]; /* the same locks among this process's threads */
    struct ring *ring;
    struct room *room;
};

/* ---- locks among processes, in cache_lock.c ---- */

/* Locks of open file descriptions (F_OFD_SETLK): released when the process ends, however it ends.
 * None is waited for without a bound: who has it may have been stopped. */
enum cache_lock {
    CACHE_LOCK_EVICTION,  /* one process at a time looks for what can go */
    CACHE_LOCK_STRUCTURE, /* layers' directories are put in place or taken away */
};
/* False: somebody else has held it for all of `patience_ms`. */
bool cache_lock(struct cache *cache, enum cache_lock which, unsigned patience_ms);
void cache_unlock(struct cache *cache, enum cache_lock which);

/* Bytes of a file; `type` is F_RDLCK, F_WRLCK or F_UNLCK. False: another description has them. */
bool file_lock(int descriptor, short type, uint64_t first, uint64_t count);
/* Whether somebody else holds one of the bytes. */
bool file_is_locked(int descriptor, uint64_t first, uint64_t count);

/* ---- entries of directories, in entries.c ---- */

/* A directory inside `parent`, made if missing; what has its name and is no directory is removed.
 * A descriptor, or -1. */
int cache_open_directory(const struct cache *cache, int parent, const char *name,
                         struct error **error);

/* A regular file of ours, or -1 with errno (ENOENT also for anything odd under that name, which is
 * removed where possible). */
int cache_open_file(int directory, const char *name, int flags, struct stat *ret_status);

/* Removes whatever has the name, with all that is in it (a few levels). */
void cache_remove_entry(int directory, const char *name);
/* Bytes on disk of what has the name, and of all that is in it (a few levels). */
uint64_t cache_entry_size(int directory, const char *name);

/* Called for each name in a directory but . and .. */
typedef void cache_entry_seen(void *context, int directory, const char *name);
void cache_each_entry(int directory, cache_entry_seen *seen, void *context);

/* ---- files that are being written, in temporary.c ---- */

#define CACHE_TEMPORARY_NAME_SIZE 48
/* A name in temporary/ that nobody else uses. */
void cache_temporary_name(char name[CACHE_TEMPORARY_NAME_SIZE]);
/* A new file in temporary/, open for reading and writing and locked for as long as it is; its name
 * goes to `name`. -1: errno. */
int cache_open_temporary(const struct cache *cache, char name[CACHE_TEMPORARY_NAME_SIZE]);
/*
 * Gives the file the name in the directory, whatever had it. -1: errno, and it stays where it is.
 *
 * Nothing here is renamed from one directory into another: the kernel lets one such rename at a
 * time go on in a whole file system, and overlayfs keeps others waiting while it copies up a file
 * that it has to ask a server for. A server that was killed and waits for that would not end, and
 * so there would be no other to answer.
 */
int cache_place_temporary(const struct cache *cache, const char *temporary, int directory,
                          const char *name);
/* What processes that died have left. */
void cache_clean_temporary(const struct cache *cache);

/* Appends the file's bytes. More than `limit`, or none: ERROR_NOT_FOUND, for the file is damaged;
 * `what` names it in errors. The file counts as used now. */
int cache_read_file(int directory, const char *name, const char *what, size_t limit,
                    struct buffer *ret, struct error **error);
/* Readers see the old file or the new one. Not flushed: what is read is always verified. */
int cache_write_file(struct cache *cache, int directory, const char *name, const char *what,
                     const void *data, size_t length, struct error **error);

/* ---- who uses what, in users.c ---- */

/* The blobs and names (by digest) that mounts of this node need, sorted; count 0 when there are
 * none. */
struct used_blobs {
    struct digest *digests; /* owned */
    size_t count;
    bool unknown; /* memory was short: any blob may be one */
};
/* Also removes the records of processes that died. */
void used_blobs_read(struct cache *cache, struct used_blobs *ret);
bool used_blobs_have(const struct used_blobs *used, const struct digest *digest);
void used_blobs_free(struct used_blobs *used);

/* ---- what a name's file has, in names.c ---- */

struct name_record {
    const char *name;
    const char *text;
    size_t length; /* of the text */
};
/* Points into `record`, which was read from `file`. False: it is damaged. */
bool name_record_read(const struct buffer *record, const char *file, struct name_record *ret);

/* ---- a blob's or a name's file ---- */

/* The digest that a file's name says; false: it is no such name. */
bool cache_digest_of_name(const char *name, struct digest *ret);
/* Seconds since 1970, as a layer's file keeps them. */
uint32_t cache_now(void);
/* The file's last use is now. */
void cache_touch(int descriptor, const struct stat *status);

#endif
