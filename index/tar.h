/*
 * A tar stream read forward, pushed in pieces of any size. ustar, GNU (L, K)
 * and PAX (x, g) headers; contents of files are passed over, and their exact
 * offset in the stream noted. Written by hand because libarchive does not tell
 * the stream offset of an entry's data.
 */
#ifndef SLUICE_INDEX_TAR_H
#define SLUICE_INDEX_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "index/entry_table.h"

struct tar_reader;

/* Appends to `table` (borrowed). NULL: out of memory. */
struct tar_reader *tar_reader_new(struct entry_table *table);

/* Where a member of the archive stands in the stream. */
struct tar_place {
    uint64_t start; /* its first header: of those that extend it, if there are any */
    uint64_t data;  /* where its data starts; padding to 512 bytes follows the data */
    uint64_t data_end;
    bool is_entry;     /* it became an entry of the table, the newest; else it was passed over */
    bool stands_alone; /* no other member is said anything from `start` to `data` */
};
/* Called for each member once its headers are read; -1 ends the reading. */
typedef int tar_place_seen(void *context, const struct tar_place *place, struct error **error);
void tar_reader_show_places(struct tar_reader *reader, tar_place_seen *seen, void *context);

/* ERROR_INVALID / ERROR_UNSUPPORTED name the entry and the stream offset. */
int tar_reader_feed(struct tar_reader *reader, const void *data, size_t length,
                    struct error **error);
/* Ends the stream: an entry cut short is an error; missing end-of-archive blocks are not. */
int tar_reader_finish(struct tar_reader *reader, struct error **error);
void tar_reader_free(struct tar_reader *reader);

#endif
