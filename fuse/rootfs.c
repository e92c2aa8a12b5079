#include "fuse/rootfs.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/fuse_mount.h"
#include "fuse/rootfs-internal.h"

#define DEFAULT_READAHEAD 128u /* the kernel's own */

/* ---- the connection ---- */

static void negotiate(void *context, struct fuse_conn_info *connection)
{
    struct rootfs *rootfs = context;
    /* Without READDIRPLUS_AUTO, each listing brings the attributes: a walk needs no lookups. */
    fuse_server_negotiate(rootfs->server, connection,
                          FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
                              FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA |
                              (rootfs->image->has_acls ? FUSE_CAP_POSIX_ACL : 0));
    rootfs->no_open = connection->capable & FUSE_CAP_NO_OPEN_SUPPORT;
    rootfs->no_opendir = connection->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
}

/* ENOSYS: the kernel need not ask again, no file of this mount is ever opened or released here. */
static void open_file(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    const struct rootfs *rootfs = fuse_server_context(request);
    file->keep_cache = 1;
    if (rootfs->no_open)
        fuse_reply_err(request, ENOSYS);
    else
        fuse_reply_open(request, file);
}

static void open_directory(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file)
{
    (void)node;
    const struct rootfs *rootfs = fuse_server_context(request);
    file->keep_cache = 1;
    file->cache_readdir = 1;
    if (rootfs->no_opendir)
        fuse_reply_err(request, ENOSYS);
    else
        fuse_reply_open(request, file);
}

/* ---- contents ---- */

/* extent_map */
static int map_file(void *context, const struct erofs_inode *inode, uint64_t offset,
                    struct erofs_extent *ret)
{
    struct rootfs *rootfs = context;
    int result = erofs_image_map(rootfs->image, inode, offset, ret);
    return (int)rootfs_checked(rootfs, result);
}

static void read_file(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset,
                      struct fuse_file_info *file)
{
    (void)file;
    struct rootfs *rootfs = fuse_server_context(request);
    struct erofs_inode inode;
    int result = rootfs_inode(rootfs, node, &inode);
    if (!result && !S_ISREG(inode.mode)) result = S_ISDIR(inode.mode) ? -EISDIR : -EINVAL;
    result = (int)rootfs_checked(rootfs, result);
    if (result < 0)
        fuse_reply_err(request, -result);
    else
        extent_reader_read(rootfs->reader, request, &inode, size, offset);
}

static const struct fuse_lowlevel_ops operations = {
    .init = negotiate,
    .lookup = rootfs_lookup,
    .forget = rootfs_forget,
    .forget_multi = rootfs_forget_multi,
    .getattr = rootfs_getattr,
    .readlink = rootfs_readlink,
    .open = open_file,
    .opendir = open_directory,
    .read = read_file,
    .lseek = rootfs_lseek,
    .readdir = rootfs_readdir,
    .readdirplus = rootfs_readdirplus,
    .statfs = rootfs_statfs,
    .getxattr = rootfs_getxattr,
    .listxattr = rootfs_listxattr,
};

static int add_up_devices(struct rootfs *rootfs, struct error **error)
{
    for (uint32_t i = 1; i <= rootfs->image->device_count; i++) {
        uint64_t length;
        struct digest tag;
        if (erofs_image_device(rootfs->image, i, &length, &tag, error) < 0) return -1;
        if (__builtin_add_overflow(rootfs->content_length, length, &rootfs->content_length))
            return error_set(error, ERROR_INVALID, "metadata: devices are larger than 2^64 bytes");
    }
    return 0;
}

static int prepare(struct rootfs *rootfs, struct layer_device *const *devices,
                   uint32_t device_count, struct device_reader *reader, struct error **error)
{
    if (device_count < rootfs->image->device_count)
        return error_set(error, ERROR_INVALID, "metadata: wants %u devices, there are %u",
                         rootfs->image->device_count, device_count);
    if (add_up_devices(rootfs, error) < 0) return -1;
    return extent_reader_new(&rootfs->reader, devices, device_count, reader, map_file, rootfs,
                             error);
}

/* ---- mounting, oneself or by somebody with the privileges ---- */

static int attach_by_mounter(struct rootfs *rootfs, const struct rootfs_options *options,
                             struct error **error)
{
    rootfs->mount.mountpoint = strdup(options->mountpoint);
    if (!rootfs->mount.mountpoint) return error_set_memory(error);
    int connection = rootfs->mounter->attach(rootfs->mounter->context, options->source, error);
    rootfs->mount.attached = connection >= 0;
    return connection;
}

static void detach(struct rootfs *rootfs)
{
    if (!rootfs->mounter) {
        tree_mount_detach(&rootfs->mount);
    } else if (rootfs->mount.attached) {
        rootfs->mount.attached = false;
        rootfs->mounter->detach(rootfs->mounter->context);
    }
}

void rootfs_refuse(struct rootfs *rootfs, uint32_t layer)
{
    extent_reader_refuse(rootfs->reader, layer);
}

void rootfs_set_readahead(struct rootfs *rootfs, unsigned kibibytes)
{
    if (rootfs->mounter) {
        rootfs->mounter->tune(rootfs->mounter->context, kibibytes);
    } else {
        fuse_mount_tune(rootfs->mount.device_minor);
        tree_mount_set_readahead(&rootfs->mount, kibibytes);
    }
}

static bool is_resumed(const struct rootfs_options *options)
{
    return options->lasting && options->lasting->negotiated;
}

/* What is mounted already is unmounted by who has mounted it. */
static int take_resumed(struct rootfs *rootfs, const struct rootfs_options *options,
                        struct error **error)
{
    cleanup_close int connection = options->resumed;
    rootfs->resumed = true;
    rootfs->mount.mountpoint = strdup(options->mountpoint);
    if (!rootfs->mount.mountpoint) return error_set_memory(error);
    rootfs->mount.attached = rootfs->mounter != NULL;
    return take_descriptor(&connection);
}

static int get_connection(struct rootfs *rootfs, const struct rootfs_options *options,
                          struct error **error)
{
    struct fuse_mount_options how = { .source = options->source,
                                      .allow_suid = options->allow_suid,
                                      .allow_devices = options->allow_devices,
                                      .allow_other = options->allow_other };
    if (is_resumed(options)) return take_resumed(rootfs, options, error);
    if (rootfs->mounter) return attach_by_mounter(rootfs, options, error);
    return fuse_mount_attach(&rootfs->mount, options->mountpoint, &how, error);
}

static int attach(struct rootfs *rootfs, const struct rootfs_options *options, struct error **error)
{
    int connection = get_connection(rootfs, options, error);
    if (connection < 0) return -1;
    struct fuse_server_options how = { .name = rootfs->mount.mountpoint,
                                       .threads = options->threads,
                                       .lasting = options->lasting };
    return fuse_server_new(&rootfs->server, connection, &operations, rootfs, &how, error);
}

int rootfs_mount(struct rootfs **ret, const struct erofs_image *image,
                 struct layer_device *const *devices, uint32_t device_count,
                 const struct rootfs_options *options, struct error **error)
{
    struct rootfs *rootfs = calloc(1, sizeof *rootfs);
    if (!rootfs) {
        if (is_resumed(options)) close(options->resumed);
        return error_set_memory(error);
    }
    rootfs->image = image;
    rootfs->metadata = options->metadata;
    rootfs->mounter = options->mounter;
    rootfs->readahead = options->readahead ? options->readahead : DEFAULT_READAHEAD;
    if (attach(rootfs, options, error) < 0 ||
        prepare(rootfs, devices, device_count, options->reader, error) < 0) {
        if (rootfs->resumed) rootfs->mount.attached = false;
        rootfs_free(rootfs);
        return -1;
    }
    *ret = rootfs;
    return 0;
}

/* ---- serving ---- */

static void wait_for_wake(struct rootfs *rootfs)
{
    struct pollfd entry = { .fd = fuse_server_descriptor(rootfs->server), .events = POLLIN };
    while (poll(&entry, 1, -1) < 0 && errno == EINTR)
        continue;
}

int rootfs_serve(struct rootfs *rootfs, void (*ready)(void *context), void *context,
                 struct error **error)
{
    int result = fuse_server_start(rootfs->server, error);
    if (!result) {
        rootfs_set_readahead(rootfs, rootfs->readahead);
        if (ready) ready(context);
        wait_for_wake(rootfs);
    }
    /* Then another one may yet go on with it. */
    if (result < 0 && rootfs->resumed) rootfs->mount.attached = false;
    /* While somebody still answers: the unmounting itself may look at the tree. */
    detach(rootfs);
    if (fuse_server_stop(rootfs->server, result < 0 ? NULL : error) < 0) result = -1;
    extent_reader_close(rootfs->reader);
    return result;
}

int rootfs_connection(const struct rootfs *rootfs)
{
    return fuse_server_connection(rootfs->server);
}

const struct fuse_negotiated *rootfs_negotiated(const struct rootfs *rootfs)
{
    return fuse_server_negotiated(rootfs->server);
}

void rootfs_stop(struct rootfs *rootfs)
{
    fuse_server_wake(rootfs->server);
}

void rootfs_free(struct rootfs *rootfs)
{
    if (!rootfs) return;
    detach(rootfs);
    extent_reader_free(rootfs->reader);
    fuse_server_free(rootfs->server);
    tree_mount_free(&rootfs->mount);
    free(rootfs);
}
