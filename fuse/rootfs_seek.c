/* Where a file has holes: lseek(2) with SEEK_DATA and SEEK_HOLE. */
#include <errno.h>
#include <unistd.h>

#include "fuse/rootfs-internal.h"

/* From `offset` on, the first place that is a hole or is none; the end of the file is a hole. */
static int seek(const struct rootfs *rootfs, const struct erofs_inode *inode, uint64_t offset,
                bool hole, uint64_t *ret)
{
    while (offset < inode->size) {
        struct erofs_extent extent;
        int result = erofs_image_map(rootfs->image, inode, offset, &extent);
        if (result < 0) return result;
        if (extent.length == 0) return -EIO;
        if ((extent.device == 0) == hole) break;
        offset += extent.length;
    }
    *ret = offset;
    return offset < inode->size || hole ? 0 : -ENXIO;
}

void rootfs_lseek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence,
                  struct fuse_file_info *file)
{
    (void)file;
    struct rootfs *rootfs = fuse_server_context(request);
    /* The kernel need not ask again where no file has data and holes. */
    if (rootfs->image->sparse_device == 0) {
        fuse_reply_err(request, ENOSYS);
        return;
    }
    struct erofs_inode inode;
    uint64_t found = 0;
    int result = rootfs_inode(rootfs, node, &inode);
    if (!result && (!S_ISREG(inode.mode) || (whence != SEEK_DATA && whence != SEEK_HOLE)))
        result = -EINVAL;
    if (!result && (offset < 0 || (uint64_t)offset >= inode.size)) result = -ENXIO;
    if (!result) result = seek(rootfs, &inode, (uint64_t)offset, whence == SEEK_HOLE, &found);
    result = (int)rootfs_checked(rootfs, result);
    if (result < 0)
        fuse_reply_err(request, -result);
    else
        fuse_reply_lseek(request, (off_t)found);
}
