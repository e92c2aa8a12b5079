#include "cache/seal-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

#define SEALED_MAGIC    "SLUICESL"
#define SEALED_VERSION  1u
#define DIGESTED_LENGTH 120u /* of the record; its digest follows */
#define SEALED_LENGTH   (DIGESTED_LENGTH + DIGEST_BYTES)

/* A number that the kernel makes up each time it starts. */
#define BOOT_ID_FILE   "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_LENGTH 36u

static int open_directory(const struct cache *cache, const struct layer_files *files)
{
    return openat(cache->layers, files->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- sealed ---- */

static int encode_time(struct buffer *ret, const struct timespec *time)
{
    return buffer_append_le64(ret, (uint64_t)time->tv_sec) |
           buffer_append_le64(ret, (uint64_t)time->tv_nsec);
}

static int encode(struct buffer *ret, const struct stat *status, const struct seal_record *record)
{
    struct digest digest;
    if (buffer_append(ret, SEALED_MAGIC, 8) | buffer_append_le32(ret, SEALED_VERSION) |
        buffer_append_le32(ret, 0) | buffer_append_le64(ret, status->st_ino) |
        encode_time(ret, &status->st_mtim) | encode_time(ret, &status->st_ctim) |
        buffer_append(ret, record->stream.bytes, DIGEST_BYTES) |
        buffer_append(ret, record->note.bytes, DIGEST_BYTES))
        return -1;
    digest_of(ret->data, DIGESTED_LENGTH, &digest);
    return buffer_append(ret, digest.bytes, DIGEST_BYTES);
}

static bool same_time(const struct timespec *left, const struct timespec *right)
{
    return left->tv_sec == right->tv_sec && left->tv_nsec == right->tv_nsec;
}

bool seal_same_file(const struct stat *before, const struct stat *after)
{
    return before->st_ino == after->st_ino && before->st_size == after->st_size &&
           same_time(&before->st_mtim, &after->st_mtim) &&
           same_time(&before->st_ctim, &after->st_ctim);
}

/* What a record of the file as it is now has to be is made, and compared. */
bool seal_read(const struct cache *cache, const struct layer_files *files, struct seal_record *ret)
{
    struct stat status;
    cleanup_buffer struct buffer found = { 0 }, expected = { 0 };
    cleanup_close int directory = open_directory(cache, files);
    if (directory < 0 || fstat(files->data, &status) < 0 ||
        (uint64_t)status.st_size != files->data_length ||
        cache_read_file(directory, "sealed", "a seal", SEALED_LENGTH, &found, NULL) < 0 ||
        found.length != SEALED_LENGTH)
        return false;
    memcpy(ret->stream.bytes, found.data + DIGESTED_LENGTH - 2 * DIGEST_BYTES, DIGEST_BYTES);
    memcpy(ret->note.bytes, found.data + DIGESTED_LENGTH - DIGEST_BYTES, DIGEST_BYTES);
    return encode(&expected, &status, ret) == 0 &&
           memcmp(found.data, expected.data, SEALED_LENGTH) == 0;
}

int seal_write(struct cache *cache, const struct layer_files *files, const struct stat *status,
               const struct seal_record *record, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    cleanup_close int directory = open_directory(cache, files);
    if (directory < 0)
        return error_set_errno(error, errno, "open layer %s in the cache", files->name);
    if (encode(&text, status, record) < 0) return error_set_memory(error);
    return cache_write_file(cache, directory, "sealed", "a seal", text.data, text.length, error);
}

void seal_remove(const struct cache *cache, const struct layer_files *files)
{
    cleanup_close int directory = open_directory(cache, files);
    if (directory >= 0) cache_remove_entry(directory, "sealed");
}

/* ---- lent ---- */

static bool read_boot_id(char ret[BOOT_ID_LENGTH])
{
    cleanup_close int descriptor = open(BOOT_ID_FILE, O_RDONLY | O_CLOEXEC);
    return descriptor >= 0 &&
           read_fully_at(descriptor, ret, BOOT_ID_LENGTH, 0) == (ssize_t)BOOT_ID_LENGTH;
}

int seal_lend(struct cache *cache, const struct layer_files *files, struct error **error)
{
    char boot_id[BOOT_ID_LENGTH];
    cleanup_close int directory = open_directory(cache, files);
    if (directory < 0)
        return error_set_errno(error, errno, "open layer %s in the cache", files->name);
    if (!read_boot_id(boot_id)) return error_set_errno(error, errno, "read '%s'", BOOT_ID_FILE);
    if (seal_is_lent(cache, files)) return 0;
    return cache_write_file(cache, directory, "lent", "the note that a file is lent", boot_id,
                            BOOT_ID_LENGTH, error);
}

bool seal_is_lent(const struct cache *cache, const struct layer_files *files)
{
    char boot_id[BOOT_ID_LENGTH];
    struct error *error = NULL;
    cleanup_buffer struct buffer found = { 0 };
    cleanup_close int directory = open_directory(cache, files);
    if (directory >= 0 &&
        cache_read_file(directory, "lent", "a note", BOOT_ID_LENGTH, &found, &error) == 0)
        return found.length == BOOT_ID_LENGTH &&
               (!read_boot_id(boot_id) || memcmp(found.data, boot_id, BOOT_ID_LENGTH) == 0);
    bool is_missing = directory < 0 || error_kind_of(error) == ERROR_NOT_FOUND;
    error_free(error);
    /* What cannot be known counts as lent: no hole is punched then. */
    return !is_missing;
}

int seal_open_data(const struct cache *cache, const struct layer_files *files)
{
    struct stat opened, found;
    cleanup_close int directory = open_directory(cache, files);
    cleanup_close int descriptor =
        directory < 0 ? -1 : cache_open_file(directory, "data", O_RDONLY, &found);
    if (descriptor < 0 || fstat(files->data, &opened) < 0 || opened.st_ino != found.st_ino ||
        opened.st_dev != found.st_dev)
        return -1;
    return take_descriptor(&descriptor);
}
