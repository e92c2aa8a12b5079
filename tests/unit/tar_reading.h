/* Reading tar streams made by tests/unit/tar_maker.h. */
#ifndef SLUICE_TESTS_UNIT_TAR_READING_H
#define SLUICE_TESTS_UNIT_TAR_READING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "index/tar.h"
#include "tests/unit/tar_maker.h"

/* Feeds in pieces of `piece` bytes. NULL: refused, with *ret_error set. */
static inline struct entry_table *read_tar(const struct buffer *tar, size_t piece,
                                           struct error **ret_error)
{
    struct entry_table *table = entry_table_new();
    struct tar_reader *reader = tar_reader_new(table);
    int status = 0;
    for (size_t at = 0; at < tar->length && status == 0; at += piece) {
        size_t length = tar->length - at < piece ? tar->length - at : piece;
        status = tar_reader_feed(reader, tar->data + at, length, ret_error);
    }
    if (status == 0) status = tar_reader_finish(reader, ret_error);
    tar_reader_free(reader);
    if (status == 0) return table;
    entry_table_free(table);
    return NULL;
}

static inline struct entry_table *accept(struct buffer *tar)
{
    struct error *error = NULL;
    struct entry_table *table = read_tar(tar, SIZE_MAX / 2, &error);
    if (!table) fail_msg("refused: %s", error_message(error));
    buffer_free(tar);
    return table;
}

static inline void refuse(struct buffer *tar, enum error_kind kind, const char *words)
{
    struct error *error = NULL;
    struct entry_table *table = read_tar(tar, SIZE_MAX / 2, &error);
    assert_null(table);
    assert_int_equal(error_kind_of(error), kind);
    if (!strstr(error_message(error), words))
        fail_msg("\"%s\" does not say \"%s\"", error_message(error), words);
    error_free(error);
    buffer_free(tar);
}

#endif
