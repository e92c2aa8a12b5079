/* An OCI image layout: https://github.com/opencontainers/image-spec, image-layout.md */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "deploytool/index_publish.h"

#define LAYOUT_MARK    "{\"imageLayoutVersion\":\"1.0.0\"}"
#define INDEX_JSON_MAX (4u << 20)

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

static bool is_empty(const char *directory)
{
    DIR *entries = opendir(directory);
    bool empty = true;
    struct dirent *entry;
    if (!entries) return errno == ENOENT;
    while (empty && (entry = readdir(entries)))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
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
    if (index_referrer_add(old.data, old.length, &index->digest, index->manifest.length, &changed,
                           layout->error) < 0)
        return error_prefix(layout->error, "'%s'", path);
    return file_write_atomic(path, changed.data, changed.length, 0644, layout->error);
}

int index_write_layout(const char *directory, const struct built_index *index,
                       struct publish_result *ret, struct error **error)
{
    struct layout layout = { directory, ret, error };
    struct digest empty;
    *ret = (struct publish_result){ 0 };
    cleanup_free char *blobs = format_text("%s/blobs/sha256", directory);
    cleanup_free char *mark = format_text("%s/oci-layout", directory);
    if (!blobs || !mark) return error_set_memory(error);
    if (index_check_layout(directory, error) < 0 || directory_make(blobs, 0755, error) < 0 ||
        file_write_atomic(mark, LAYOUT_MARK, strlen(LAYOUT_MARK), 0644, error) < 0)
        return -1;
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
