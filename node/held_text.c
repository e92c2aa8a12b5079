#include "node/held_text-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"

/* A descriptor, or -1. */
static int write_file(const char *text, size_t length, struct error **error)
{
    cleanup_close int file = memfd_create("sluice-held", MFD_CLOEXEC);
    if (file < 0 || write_fully(file, text, length) < 0)
        return error_set_errno(error, errno, "make a file in memory");
    return take_descriptor(&file);
}

int held_text_put(struct holder_client *holder, const char *name, const char *text,
                  const int *descriptors, size_t count, struct error **error)
{
    size_t length = strlen(text);
    int all[HOLDER_DESCRIPTORS_MAX];
    if (length <= HOLDER_DATA_MAX)
        return holder_put(holder, name, text, length, descriptors, count, error);
    if (length > HELD_TEXT_MAX || count >= HOLDER_DESCRIPTORS_MAX)
        return error_set(error, ERROR_INVALID, "'%s': more than can be held", name);
    cleanup_close int file = write_file(text, length, error);
    if (file < 0) return -1;
    if (count > 0) memcpy(all, descriptors, count * sizeof *all);
    all[count] = file;
    return holder_put(holder, name, "", 0, all, count + 1, error);
}

int held_text_take(struct holder_entry *entry, struct error **error)
{
    struct stat status;
    if (entry->data.length > 0 || entry->descriptor_count == 0) return 0;
    cleanup_close int file = take_descriptor(&entry->descriptors[--entry->descriptor_count]);
    if (fstat(file, &status) < 0) return error_set_errno(error, errno, "what is held");
    if (!S_ISREG(status.st_mode) || status.st_size < 0 || status.st_size > HELD_TEXT_MAX)
        return error_set(error, ERROR_INVALID, "what is held has no text");
    size_t length = (size_t)status.st_size;
    if (buffer_reserve(&entry->data, length) < 0) return error_set_memory(error);
    ssize_t count = read_fully_at(file, entry->data.data, length, 0);
    if (count < 0) return error_set_errno(error, errno, "read what is held");
    entry->data.length = (size_t)count;
    return 0;
}
