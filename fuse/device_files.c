#include "fuse/device_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/extent_reader.h"
#include "fuse/fuse_server.h"

#define BLOCK_BYTES 512u
#define FOREVER     1e12 /* seconds; the kernel caps it */

struct device_files {
    const struct erofs_image *image;
    const struct mapping *metadata; /* or NULL */
    uint32_t layer_count, file_count;
    struct fuse_server *server;
    struct extent_reader *reader;
    bool no_open;
};

/* Device i is node i + 1, behind the root. */
static uint32_t device_of_node(const struct device_files *files, fuse_ino_t node)
{
    return node > FUSE_ROOT_ID && node - FUSE_ROOT_ID <= files->file_count
               ? (uint32_t)(node - FUSE_ROOT_ID)
               : 0;
}

/* ---- contents ---- */

/* The place on the sparse device where the next record begins, or the end. */
static int map_sparse(const struct device_files *files, uint64_t offset, struct erofs_extent *ret)
{
    const struct sparse_map *map = &files->image->sparse_map;
    uint64_t position = sparse_map_find(map, offset);
    *ret = (struct erofs_extent){ .length = UINT64_MAX - offset };
    if (position < map->count) {
        struct sparse_record record = sparse_map_get(map, position);
        if (offset < record.device_offset) {
            ret->length = record.device_offset - offset;
        } else {
            uint64_t inside = offset - record.device_offset;
            *ret = (struct erofs_extent){ .device = record.layer + 1,
                                          .device_offset = record.stream_offset + inside,
                                          .length = record.length - inside };
            if (record.layer >= files->layer_count) return -EIO;
        }
    }
    return files->metadata && mapping_is_damaged(files->metadata) ? -EIO : 0;
}

/* extent_map; a device's file is called by its number. */
static int map_device(void *context, const struct erofs_inode *file, uint64_t offset,
                      struct erofs_extent *ret)
{
    const struct device_files *files = context;
    if (file->nid > files->layer_count) return map_sparse(files, offset, ret);
    *ret = (struct erofs_extent){ .device = (uint32_t)file->nid,
                                  .device_offset = offset,
                                  .length = file->size - offset };
    return 0;
}

static uint64_t device_length(const struct device_files *files, uint32_t device)
{
    uint64_t length;
    struct digest ignored;
    if (device == files->image->sparse_device) return files->image->sparse_blocks * BLOCK_BYTES;
    return erofs_image_device(files->image, device, &length, &ignored, NULL) < 0 ? 0 : length;
}

static void read_file(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                      struct fuse_file_info *file)
{
    (void)file;
    struct device_files *files = fuse_server_context(request);
    uint32_t device = device_of_node(files, node);
    struct erofs_inode inode = { .nid = device };
    if (device == 0) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    inode.size = device_length(files, device);
    extent_reader_read(files->reader, request, &inode, size, offset);
}

/* ---- names ---- */

static void fill_attributes(const struct device_files *files, uint32_t device, struct stat *ret)
{
    uint64_t length = device ? device_length(files, device) : 0;
    *ret = (struct stat){ .st_ino = FUSE_ROOT_ID + device,
                          .st_mode = device ? S_IFREG | 0400 : S_IFDIR | 0500,
                          .st_nlink = 1,
                          .st_size = (off_t)length,
                          .st_blocks = (blkcnt_t)(length / BLOCK_BYTES) };
}

static void lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    const struct device_files *files = fuse_server_context(request);
    char *end;
    unsigned long device = name[0] >= '1' && name[0] <= '9' ? strtoul(name, &end, 10) : 0;
    if (parent != FUSE_ROOT_ID || device == 0 || *end || device > files->file_count) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    struct fuse_entry_param entry = { .ino = FUSE_ROOT_ID + device,
                                      .attr_timeout = FOREVER,
                                      .entry_timeout = FOREVER };
    fill_attributes(files, (uint32_t)device, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void get_attributes(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)file;
    const struct device_files *files = fuse_server_context(request);
    struct stat attributes;
    fill_attributes(files, device_of_node(files, node), &attributes);
    fuse_reply_attr(request, &attributes, FOREVER);
}

static void forget(fuse_req_t request, fuse_ino_t node, uint64_t count)
{
    (void)node;
    (void)count;
    fuse_reply_none(request);
}

static void open_file(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    const struct device_files *files = fuse_server_context(request);
    file->keep_cache = 1;
    if (files->no_open)
        fuse_reply_err(request, ENOSYS);
    else
        fuse_reply_open(request, file);
}

/* ---- start and end ---- */

static void negotiate(void *context, struct fuse_conn_info *connection)
{
    struct device_files *files = context;
    fuse_server_negotiate(files->server, connection, FUSE_CAP_EXPLICIT_INVAL_DATA);
    files->no_open = connection->capable & FUSE_CAP_NO_OPEN_SUPPORT;
}

static const struct fuse_lowlevel_ops operations = {
    .init = negotiate,
    .lookup = lookup,
    .forget = forget,
    .getattr = get_attributes,
    .open = open_file,
    .read = read_file,
};

static int start(struct device_files *files, int connection, struct layer_device *const *devices,
                 struct device_reader *reader, const struct fuse_lasting *lasting,
                 struct error **error)
{
    struct fuse_server_options options = { .name = "devices", .lasting = lasting };
    int result = fuse_server_new(&files->server, connection, &operations, files, &options, error);
    if (result == 0)
        result = extent_reader_new(&files->reader, devices, files->layer_count, reader, map_device,
                                   files, error);
    return result < 0 ? -1 : fuse_server_start(files->server, error);
}

int device_files_start(struct device_files **ret, int connection, const struct erofs_image *image,
                       struct layer_device *const *devices, uint32_t device_count,
                       struct device_reader *reader, const struct mapping *metadata,
                       const struct fuse_lasting *lasting, struct error **error)
{
    struct device_files *files = calloc(1, sizeof *files);
    if (!files) {
        close(connection);
        return error_set_memory(error);
    }
    files->image = image;
    files->metadata = metadata;
    files->layer_count = device_count;
    files->file_count = device_count + (image->sparse_device ? 1 : 0);
    if (start(files, connection, devices, reader, lasting, error) < 0) {
        device_files_free(files);
        return -1;
    }
    *ret = files;
    return 0;
}

int device_files_connection(const struct device_files *files)
{
    return fuse_server_connection(files->server);
}

const struct fuse_negotiated *device_files_negotiated(const struct device_files *files)
{
    return fuse_server_negotiated(files->server);
}

void device_files_refuse(struct device_files *files, uint32_t layer)
{
    extent_reader_refuse(files->reader, layer);
}

int device_files_descriptor(const struct device_files *files)
{
    return fuse_server_descriptor(files->server);
}

int device_files_stop(struct device_files *files, struct error **error)
{
    int result = fuse_server_stop(files->server, error);
    extent_reader_close(files->reader);
    return result;
}

void device_files_free(struct device_files *files)
{
    if (!files) return;
    /* Before the reader goes, which its threads use. */
    if (files->server) fuse_server_stop(files->server, NULL);
    extent_reader_free(files->reader);
    fuse_server_free(files->server);
    free(files);
}
