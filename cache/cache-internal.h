/* What the files of this folder share. */
#ifndef SLUICE_CACHE_CACHE_INTERNAL_H
#define SLUICE_CACHE_CACHE_INTERNAL_H

#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/ring.h"

struct cache {
    char *directory;
    int root, blobs, names, layers, temporary; /* descriptors of the directories */
    struct ring *ring;
};

/* A directory inside `parent`, made if missing. A descriptor, or -1. */
int cache_open_directory(const struct cache *cache, int parent, const char *name,
                         struct error **error);

/* A regular file of ours, or -1 with errno (ENOENT also for anything odd under that name, which is
 * removed where possible). */
int cache_open_file(int directory, const char *name, int flags, struct stat *ret_status);

/* A new file in temporary/, open for reading and writing; its name goes to `name`. -1: errno. */
#define CACHE_TEMPORARY_NAME_SIZE 48
int cache_open_temporary(const struct cache *cache, char name[CACHE_TEMPORARY_NAME_SIZE]);

/* Appends the file's bytes. More than `limit`, or none: ERROR_NOT_FOUND, for the file is damaged;
 * `what` names it in errors. */
int cache_read_file(int directory, const char *name, const char *what, size_t limit,
                    struct buffer *ret, struct error **error);
/* Readers see the old file or the new one. Not flushed: what is read is always verified. */
int cache_write_file(const struct cache *cache, int directory, const char *name, const char *what,
                     const void *data, size_t length, struct error **error);

#endif
