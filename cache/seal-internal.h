/*
 * What is written beside a sealed layer's data (docs/formats.md): `sealed` says
 * that all of it was read back and is right, as long as the file has not
 * changed since; `lent` says that a kernel may read it without asking anybody.
 */
#ifndef SLUICE_CACHE_SEAL_INTERNAL_H
#define SLUICE_CACHE_SEAL_INTERNAL_H

#include "cache/layer_files-internal.h"

struct seal_record {
    struct digest stream; /* what the file has, but for the zeros behind the stream's end */
    struct digest note;   /* what the caller of layer_cache_seal() made of it */
};
/* False: the layer is not sealed, or its file has changed since. */
bool seal_read(const struct cache *cache, const struct layer_files *files, struct seal_record *ret);
/* `status` is that of the data file, from before it was read. */
int seal_write(struct cache *cache, const struct layer_files *files, const struct stat *status,
               const struct seal_record *record, struct error **error);
void seal_remove(const struct cache *cache, const struct layer_files *files);
/* Whether `before` and `after` are of one file that nobody wrote to in between. */
bool seal_same_file(const struct stat *before, const struct stat *after);

/* The data file goes to a kernel, which may have it until the machine is started again, also when
 * the process that asked has died. Nobody punches holes into it any more. */
int seal_lend(struct cache *cache, const struct layer_files *files, struct error **error);
bool seal_is_lent(const struct cache *cache, const struct layer_files *files);

/* A read-only descriptor of the data file, or -1: another has its place. */
int seal_open_data(const struct cache *cache, const struct layer_files *files);

#endif
