/* An OCI image layout: https://github.com/opencontainers/image-spec, image-layout.md */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "deploytool/index_publish.h"

#define LAYOUT_MARK    "{\"imageLayoutVersion\":\"1.0.0\"}"
#define INDEX_JSON_MAX (4u << 20)

/* Others that write here need seconds, for they have built their index before. */
#define LOCK_SECONDS 60
#define LOCK_PAUSE   20000 /* microseconds */

struct layout {
    const char *directory;
    struct publish_result *result;
    struct error **error;
};

static int write_blob(struct layout *layout, const struct digest *digest, const void *data,
                      size_t length)
{
    char hex[DIGEST_HEX_SIZE];
    cleanup_free char *path =
        format_text("%s/blobs/sha256/%s", layout->directory, digest_format_hex(digest, hex));
    if (!path) return error_set_memory(layout->error);
    struct stat found;
    if (stat(path, &found) == 0 && (uint64_t)found.st_size == length) {
        layout->result->parts_present++;
        return 0;
    }
    layout->result->parts_pushed++;
    layout->result->bytes_pushed += length;
    return file_write_atomic(path, data, length, 0644, layout->error);
}

static int write_part(void *context, const struct built_part *part)
{
    return write_blob(context, &part->part.digest, part->blob.data, part->blob.length);
}

/* A first file that was not finished is nothing. */
static bool is_empty(const char *directory)
{
    DIR *entries = opendir(directory);
    bool empty = true;
    struct dirent *entry;
    if (!entries) return errno == ENOENT;
    while (empty && (entry = readdir(entries)))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                file_name_is_temporary(entry->d_name);
    closedir(entries);
    return empty;
}

int index_check_layout(const char *directory, struct error **error)
{
    cleanup_free char *mark = format_text("%s/oci-layout", directory);
    struct stat found;
    if (!mark) return error_set_memory(error);
    if (stat(directory, &found) == 0 && !S_ISDIR(found.st_mode)) {
        error_set(error, ERROR_INVALID, "--output '%s' is no directory", directory);
        return error_hint(error, "name an empty or a new one");
    }
    if (is_empty(directory) || access(mark, F_OK) == 0) return 0;
    error_set(error, ERROR_INVALID, "--output '%s' holds something that is no OCI image layout",
              directory);
    return error_hint(error, "name an empty or a new directory");
}

/* Opens the directory and locks it: with the lock, what is temporary belongs to nobody.
 * `ret_locked` is false where the file system has no such locks. -1 with an error, else the
 * descriptor that holds the lock. */
static int lock_layout(const char *directory, bool *ret_locked, struct error **error)
{
    cleanup_close int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *ret_locked = false;
    if (descriptor < 0) return error_set_errno(error, errno, "open '%s'", directory);
    for (unsigned pauses = 0; flock(descriptor, LOCK_EX | LOCK_NB) < 0; pauses++) {
        if (errno != EWOULDBLOCK && errno != EINTR) return take_descriptor(&descriptor);
        if (pauses >= LOCK_SECONDS * (1000000 / LOCK_PAUSE)) {
            error_set(error, ERROR_SYSTEM, "another process has had '%s' locked for %d seconds",
                      directory, LOCK_SECONDS);
            return error_hint(error, "try again when it has ended");
        }
        usleep(LOCK_PAUSE);
    }
    *ret_locked = true;
    return take_descriptor(&descriptor);
}

/* Removes what writers left that were killed. */
static int remove_temporaries(const char *directory, struct error **error)
{
    DIR *entries = opendir(directory);
    int result = 0;
    struct dirent *entry;
    if (!entries)
        return errno == ENOENT ? 0 : error_set_errno(error, errno, "open '%s'", directory);
    while (result == 0 && (entry = readdir(entries)))
        if (file_name_is_temporary(entry->d_name) &&
            unlinkat(dirfd(entries), entry->d_name, 0) < 0 && errno != ENOENT)
            result = error_set_errno(error, errno, "remove '%s/%s'", directory, entry->d_name);
    closedir(entries);
    return result;
}

/* index.json with our manifest in it, others kept. */
static int write_index_json(struct layout *layout, const struct built_index *index)
{
    cleanup_free char *path = format_text("%s/index.json", layout->directory);
    cleanup_buffer struct buffer old = { 0 }, changed = { 0 };
    struct error *reason = NULL;
    if (!path) return error_set_memory(layout->error);
    if (file_read(path, INDEX_JSON_MAX, &old, &reason) < 0) {
        if (error_kind_of(reason) != ERROR_NOT_FOUND) return error_move(layout->error, reason);
        error_free(reason);
    }
    struct index_referrer referrer = { index->digest, index->manifest.length,
                                       index->artifact.revision };
    if (index_referrer_add(old.data, old.length, &referrer, &changed, layout->error) < 0)
        return error_prefix(layout->error, "'%s'", path);
    return file_write_atomic(path, changed.data, changed.length, 0644, layout->error);
}

/* The mark comes first: without it, what is in the directory is taken for somebody else's. */
static int prepare_layout(const char *directory, bool locked, struct error **error)
{
    cleanup_free char *blobs = format_text("%s/blobs/sha256", directory);
    cleanup_free char *mark = format_text("%s/oci-layout", directory);
    if (!blobs || !mark) return error_set_memory(error);
    if (index_check_layout(directory, error) < 0) return -1;
    if (locked &&
        (remove_temporaries(directory, error) < 0 || remove_temporaries(blobs, error) < 0))
        return -1;
    if (file_write_atomic(mark, LAYOUT_MARK, strlen(LAYOUT_MARK), 0644, error) < 0 ||
        directory_make(blobs, 0755, error) < 0)
        return -1;
    return 0;
}

int index_write_layout(const char *directory, const struct built_index *index,
                       struct publish_result *ret, struct error **error)
{
    struct layout layout = { directory, ret, error };
    struct digest empty;
    bool locked;
    *ret = (struct publish_result){ 0 };
    if (directory_make(directory, 0755, error) < 0) return -1;
    cleanup_close int lock = lock_layout(directory, &locked, error);
    if (lock < 0 || prepare_layout(directory, locked, error) < 0) return -1;
    digest_of(EMPTY_CONFIG, strlen(EMPTY_CONFIG), &empty);
    if (built_index_each_part(index, write_part, &layout) < 0) return -1;
    struct publish_result parts = *ret;
    if (write_blob(&layout, &empty, EMPTY_CONFIG, strlen(EMPTY_CONFIG)) < 0 ||
        write_blob(&layout, &index->digest, index->manifest.data, index->manifest.length) < 0 ||
        write_index_json(&layout, index) < 0)
        return -1;
    *ret = parts; /* as a push counts: without config and manifest */
    return 0;
}
