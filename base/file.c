#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

int file_read(const char *path, size_t limit, struct buffer *ret, struct error **error)
{
    struct stat found;
    /* Opening a pipe would wait for somebody to write. */
    cleanup_close int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return error_set(error, ERROR_NOT_FOUND, "'%s' does not exist", path);
        return error_set_errno(error, errno, "open '%s'", path);
    }
    if (fstat(descriptor, &found) < 0) return error_set_errno(error, errno, "stat '%s'", path);
    if (!S_ISREG(found.st_mode))
        return error_set(error, ERROR_INVALID, "'%s' is no plain file", path);
    size_t start = ret->length;
    for (;;) {
        if (buffer_reserve(ret, 64 << 10) < 0) return error_set_memory(error);
        ssize_t count = read(descriptor, ret->data + ret->length, ret->capacity - ret->length);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set_errno(error, errno, "read '%s'", path);
        if (count == 0) return 0;
        ret->length += (size_t)count;
        if (ret->length - start > limit)
            return error_set(error, ERROR_INVALID, "'%s' is larger than %zu bytes", path, limit);
    }
}

/* Makes the rename itself durable. */
static int sync_directory_of(const char *path, struct error **error)
{
    cleanup_free char *copy = strdup(path);
    if (!copy) return error_set_memory(error);
    const char *directory = dirname(copy);
    cleanup_close int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0 || fsync(descriptor) < 0)
        return error_set_errno(error, errno, "sync directory '%s'", directory);
    return 0;
}

/* The mark is nothing that people end names with. */
#define TEMPORARY_MARK   ".sluice-"
#define TEMPORARY_RANDOM "XXXXXX"

bool file_name_is_temporary(const char *name)
{
    size_t length = strlen(name), end = strlen(TEMPORARY_MARK TEMPORARY_RANDOM);
    return length > end && memcmp(name + length - end, TEMPORARY_MARK, strlen(TEMPORARY_MARK)) == 0;
}

int file_write_atomic(const char *path, const void *data, size_t length, mode_t mode,
                      struct error **error)
{
    cleanup_free char *temporary = format_text("%s" TEMPORARY_MARK TEMPORARY_RANDOM, path);
    if (!temporary) return error_set_memory(error);
    cleanup_close int descriptor = mkostemp(temporary, O_CLOEXEC);
    if (descriptor < 0) return error_set_errno(error, errno, "create '%s'", temporary);
    if (write_fully(descriptor, data, length) < 0 || fchmod(descriptor, mode) < 0 ||
        fdatasync(descriptor) < 0 || rename(temporary, path) < 0) {
        int number = errno;
        unlink(temporary);
        return error_set_errno(error, number, "write '%s'", path);
    }
    return sync_directory_of(path, error);
}

int directory_make(const char *path, mode_t mode, struct error **error)
{
    if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
    if (errno != ENOENT) return error_set_errno(error, errno, "make directory '%s'", path);
    cleanup_free char *copy = strdup(path);
    if (!copy) return error_set_memory(error);
    const char *parent = dirname(copy);
    if (strcmp(parent, path) == 0 || strcmp(parent, ".") == 0)
        return error_set_errno(error, ENOENT, "make directory '%s'", path);
    if (directory_make(parent, mode, error) < 0) return -1;
    if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
    return error_set_errno(error, errno, "make directory '%s'", path);
}

ssize_t read_fully_at(int descriptor, void *data, size_t length, uint64_t offset)
{
    size_t done = 0;
    while (done < length) {
        ssize_t count =
            pread(descriptor, (char *)data + done, length - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -1;
        if (count == 0) break;
        done += (size_t)count;
    }
    return (ssize_t)done;
}

int write_fully(int descriptor, const void *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t count = write(descriptor, (const char *)data + done, length - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -1;
        done += (size_t)count;
    }
    return 0;
}

char *format_text(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}
