/* A blob that comes in pieces: a temporary file until it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/room-internal.h"

struct blob_writer {
    struct cache *cache;
    int descriptor;
    char name[CACHE_TEMPORARY_NAME_SIZE];
};

int blob_writer_new(struct blob_writer **ret, struct cache *cache, struct error **error)
{
    struct blob_writer *writer = malloc(sizeof *writer);
    if (!writer) return error_set_memory(error);
    writer->cache = cache;
    writer->descriptor = cache_open_temporary(cache, writer->name);
    if (writer->descriptor < 0) {
        int number = errno;
        free(writer);
        return error_set_errno(error, number, "create a file in cache directory '%s'",
                               cache->directory);
    }
    *ret = writer;
    return 0;
}

int blob_writer_append(struct blob_writer *writer, const void *data, size_t length,
                       struct error **error)
{
    struct room *room = writer->cache->room;
    if (!room_take_now(room, length))
        return error_set(error, ERROR_SYSTEM, "there is no room in cache directory '%s'",
                         writer->cache->directory);
    if (write_fully(writer->descriptor, data, length) == 0) {
        room_stored(room, length);
        return 0;
    }
    int number = errno;
    room_give_back(room, length);
    return error_set_errno(error, number, "write to cache directory '%s'",
                           writer->cache->directory);
}

int blob_writer_map(const struct blob_writer *writer, size_t length, struct mapping **ret,
                    struct error **error)
{
    if (mapping_new(ret, writer->descriptor, length, MAPPING_READ_ONLY, error) < 0) return -1;
    int file = openat(writer->cache->temporary, writer->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file >= 0) mapping_keep_file(*ret, file);
    return 0;
}

int blob_writer_publish(struct blob_writer *writer, const struct digest *digest,
                        struct error **error)
{
    char name[DIGEST_HEX_SIZE];
    if (cache_place_temporary(writer->cache, writer->name, writer->cache->blobs,
                              digest_format_hex(digest, name)) < 0)
        return error_set_errno(error, errno, "write to cache directory '%s'",
                               writer->cache->directory);
    close(take_descriptor(&writer->descriptor));
    return 0;
}

void blob_writer_free(struct blob_writer *writer)
{
    if (!writer) return;
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        unlinkat(writer->cache->temporary, writer->name, 0);
    }
    free(writer);
}
