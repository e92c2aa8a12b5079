/*
 * Reads of files whose bytes lie on layer devices, as extents. A read that one extent holds is
 * answered straight from the memory of the device that has it. One that crosses extents or holes is
 * gathered in memory of its own, because FUSE takes one reply; so that a thousand such reads do not
 * take a thousand buffers, they wait in a list while there is no memory for them. What stands in
 * one piece in a layer is asked for in one piece, however many holes the file has in between: a
 * sparse file costs one read of its layer. Threads never wait.
 */
#ifndef SLUICE_FUSE_EXTENT_READER_H
#define SLUICE_FUSE_EXTENT_READER_H

#include <fuse_lowlevel.h>

#include "fuse/layer_device.h"
#include "index/erofs_image.h"

struct extent_reader;

/* Where byte `offset` of a file is, as erofs_image_map(). `file` is what was given for the read. 0
 * or a negative errno. */
typedef int extent_map(void *context, const struct erofs_inode *file, uint64_t offset,
                       struct erofs_extent *ret);

/* `devices[i]` is device i + 1; the array is copied, the devices are borrowed, and so is `counts`
 * (or NULL), by which devices are read. */
int extent_reader_new(struct extent_reader **ret, struct layer_device *const *devices,
                      uint32_t device_count, struct device_reader *counts, extent_map *map,
                      void *context, struct error **error);
/* Answers the request with up to `size` bytes of the file, which is copied and of which its `size`
 * counts here. */
void extent_reader_read(struct extent_reader *reader, fuse_req_t request,
                        const struct erofs_inode *file, size_t size, off_t offset);
/* What the device (from 0) has is not to be believed as this image shows it, whatever other images
 * make of it: reads of it are EIO from now on. Any thread. */
void extent_reader_refuse(struct extent_reader *reader, uint32_t device);
/* Answers the reads that no device was asked for yet, and takes care that none will be. */
void extent_reader_close(struct extent_reader *reader);
/* Closes, and waits for the devices' answers. NULL is fine. */
void extent_reader_free(struct extent_reader *reader);

#endif
