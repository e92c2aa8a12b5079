/*
 * `sluice mount --record`: the order in which a mount's chunks are first read, as a file in the
 * form of a profile (index/profile.h). It is written every few seconds while there is news, always
 * whole, and when the mount ends.
 */
#ifndef SLUICE_NODE_RECORD_FILE_H
#define SLUICE_NODE_RECORD_FILE_H

#include "fuse/layer_device.h"
#include "node/node_image.h"

struct record_file;

/* Before the first read. What is given is borrowed. */
int record_file_start(struct record_file **ret, const char *path, const struct node_image *node,
                      struct data_path *data_path, struct layer_device *const *devices,
                      struct error **error);
/* After the last read, while the devices are open. NULL is fine. */
void record_file_end(struct record_file *record);

#endif
