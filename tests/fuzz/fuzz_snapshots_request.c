/*
 * Fed: which request of containerd's snapshots service it is, and its bytes.
 *
 * Holds: it is refused with an error, or all that was made of it is there.
 */
#include "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.pb-c.h"
#include "snapshotter/snapshots_message-internal.h"
#include "tests/fuzz/fuzz.h"

#define DESCRIPTOR(name) &containerd__services__snapshots__v1__##name##__descriptor

static const ProtobufCMessageDescriptor *const descriptors[] = {
    DESCRIPTOR(prepare_snapshot_request), DESCRIPTOR(commit_snapshot_request),
    DESCRIPTOR(update_snapshot_request),  DESCRIPTOR(list_snapshots_request),
    DESCRIPTOR(mounts_request),
};

/* Packing reads all that there is. */
static void read_all(const ProtobufCMessage *message)
{
    struct buffer packed = { 0 };
    size_t size = protobuf_c_message_get_packed_size(message);
    EXPECT(buffer_reserve(&packed, size + 1) == 0);
    EXPECT(protobuf_c_message_pack(message, packed.data) == size);
    buffer_free(&packed);
}

static void read_labels(const ProtobufCMessage *message)
{
    const Containerd__Services__Snapshots__V1__PrepareSnapshotRequest *request =
        (const Containerd__Services__Snapshots__V1__PrepareSnapshotRequest *)message;
    struct error *error = NULL;
    struct labels labels;
    if (labels_of_map(request->labels, request->n_labels, &labels, &error) < 0)
        expect_error(error);
    else
        labels_free(&labels);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct error *error = NULL;
    uint64_t which = take_number(&data, &length, 1) % (sizeof descriptors / sizeof *descriptors);
    ProtobufCMessage *message = request_read(descriptors[which], data, length, &error);
    if (!message) {
        expect_error(error);
        error_free(error);
        return 0;
    }
    if (which == 0) read_labels(message);
    read_all(message);
    request_free(message);
    return 0;
}
