/* What a profile costs, and because of which files. `tables` are those it was decoded for. */
#ifndef SLUICE_DEPLOYTOOL_PROFILE_FILES_H
#define SLUICE_DEPLOYTOOL_PROFILE_FILES_H

#include <jansson.h>

#include "index/chunk_table.h"
#include "index/profile.h"

/* Of the profile's chunks: decoded, and what of the blobs holds them. */
uint64_t profile_stream_bytes(const struct profile *profile, struct chunk_table *const *tables);
uint64_t profile_blob_bytes(const struct profile *profile, struct chunk_table *const *tables);

/* The files, in the order in which they were first read, each with the blob bytes of the chunks
 * that were first read because of it: a new reference, and lines on standard output. */
json_t *profile_files_json(const struct profile *profile, struct chunk_table *const *tables);
void profile_files_print(const struct profile *profile, struct chunk_table *const *tables);

#endif
