/*
 * The devices of a metadata image as files of a FUSE file system, "1", "2" and so on: the streams
 * of the layers, and the sparse device, which is made up. EROFS reads them (erofs_mount.h). Their
 * lengths are whole blocks; bytes behind the end of a stream are zeros.
 */
#ifndef SLUICE_FUSE_DEVICE_FILES_H
#define SLUICE_FUSE_DEVICE_FILES_H

#include "base/error.h"
#include "base/mapping.h"
#include "fuse/fuse_server.h"
#include "fuse/layer_device.h"
#include "index/erofs_image.h"

struct device_files;

/* Serves a connection (of device_mount_attach()), which is taken over, also when it fails. `image`
 * has been validated; all is borrowed. `metadata` as in struct rootfs_options. `reader`
 * as in struct rootfs_options, `lasting` as in struct fuse_server_options; or NULL. The files can
 * be opened when this returns. */
int device_files_start(struct device_files **ret, int connection, const struct erofs_image *image,
                       struct layer_device *const *devices, uint32_t device_count,
                       struct device_reader *reader, const struct mapping *metadata,
                       const struct fuse_lasting *lasting, struct error **error);
/* For the next server of a connection that lasts; borrowed. */
int device_files_connection(const struct device_files *files);
const struct fuse_negotiated *device_files_negotiated(const struct device_files *files);
/* As extent_reader_refuse(). */
void device_files_refuse(struct device_files *files, uint32_t layer);
/* For poll(2): readable once the connection has ended. */
int device_files_descriptor(const struct device_files *files);
/* Takes no more requests; those that are parked on devices go on. */
int device_files_stop(struct device_files *files, struct error **error);
/* Waits until the devices have answered what they were asked, and ends the connection. NULL is
 * fine. */
void device_files_free(struct device_files *files);

#endif
