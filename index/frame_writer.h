/* Writes a layer's blob as its plan says: many zstd frames, compressed on several threads. */
#ifndef SLUICE_INDEX_FRAME_WRITER_H
#define SLUICE_INDEX_FRAME_WRITER_H

#include "base/digest.h"
#include "base/mapping.h"
#include "index/frame_plan.h"

/* zstd's levels; above 19 they take memory that frames of this length have no use for. */
#define FRAME_LEVEL_MOST    19
#define FRAME_LEVEL_DEFAULT 15

struct written_blob {
    struct digest digest;
    uint64_t length;
    struct digest stream_digest; /* diffID */
};

/* Writes into `file`, a descriptor, from where it stands. `old_stream` may be NULL where the plan
 * takes nothing from it. The bytes depend on the plan, the level and the version of libzstd, not on
 * the number of threads. Memory: 100 MiB at the most, and zstd's for each thread. */
int frame_writer_run(const struct frame_plan *plan, const struct mapping *old_stream, int level,
                     unsigned threads, int file, struct written_blob *ret, struct error **error);

#endif
