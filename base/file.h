/* Whole-file reading and writing, and directories. */
#ifndef SLUICE_BASE_FILE_H
#define SLUICE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"

/* Appends the file's bytes to `ret`; more than `limit` bytes, or a file that is no plain one (and
 * may never end), is ERROR_INVALID. A file that does not exist is ERROR_NOT_FOUND. */
int file_read(const char *path, size_t limit, struct buffer *ret, struct error **error);
/* Writes a temporary name beside `path`, flushes it, renames it: readers see the
 * old bytes or the new ones, also after a power loss. */
int file_write_atomic(const char *path, const void *data, size_t length, mode_t mode,
                      struct error **error);
/* Whether a file of this name (without directories) can only be what file_write_atomic() is
 * writing, or left when its process was killed. */
bool file_name_is_temporary(const char *name);
/* Makes `path` and what is missing above it. */
int directory_make(const char *path, mode_t mode, struct error **error);

/* Loops over short counts and EINTR. Bytes read (short only at the end of the
 * file), or -1 with errno. */
ssize_t read_fully_at(int descriptor, void *data, size_t length, uint64_t offset);
/* 0, or -1 with errno. */
int write_fully(int descriptor, const void *data, size_t length);

/* printf into fresh memory; NULL when memory is short. */
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
