/* Between the messages of containerd's snapshots service and what snapshotter.h has. */
#ifndef SLUICE_SNAPSHOTTER_SNAPSHOTS_MESSAGE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_SNAPSHOTS_MESSAGE_INTERNAL_H

#include <protobuf-c/protobuf-c.h>

#include "base/buffer.h"
#include "snapshotter/snapshotter.h"

/* Reads a request; freed by request_free(). ERROR_INVALID: these bytes are no such message, or it
 * would take too much memory, or a text of it has a NUL. */
ProtobufCMessage *request_read(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                               size_t length, struct error **error);
void request_free(ProtobufCMessage *request);

/* A text that newer versions of a message have as field `number`, in fresh memory; "" where it is
 * not there. */
char *newer_text(const ProtobufCMessage *request, uint32_t number, struct error **error);

/* `entries`: a map<string, string>. */
int labels_of_map(const void *entries, size_t count, struct labels *ret, struct error **error);

/* Each appends the fields of a message. 0, or -1 when memory is short. */
int append_mounts(struct buffer *to, const struct mount_list *mounts); /* a mount list as field 1 */
int append_info(struct buffer *to, const struct snapshot_info *info);  /* an Info as field 1 */
int append_usage(struct buffer *to, const struct snapshot_usage *usage);

#endif
