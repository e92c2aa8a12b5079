/*
 * A tar stream read forward, pushed in pieces of any size. ustar, GNU (L, K)
 * and PAX (x, g) headers; contents of files are passed over, and their exact
 * offset in the stream noted. Written by hand because libarchive does not tell
 * the stream offset of an entry's data.
 */
#ifndef SLUICE_INDEX_TAR_H
#define SLUICE_INDEX_TAR_H

#include "base/error.h"
#include "index/entry_table.h"

struct tar_reader;

/* Appends to `table` (borrowed). NULL: out of memory. */
struct tar_reader *tar_reader_new(struct entry_table *table);
/* ERROR_INVALID / ERROR_UNSUPPORTED name the entry and the stream offset. */
int tar_reader_feed(struct tar_reader *reader, const void *data, size_t length,
                    struct error **error);
/* Ends the stream: an entry cut short is an error; missing end-of-archive blocks are not. */
int tar_reader_finish(struct tar_reader *reader, struct error **error);
void tar_reader_free(struct tar_reader *reader);

#endif
