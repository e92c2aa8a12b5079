#include "snapshotter/snapshots_service.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.pb-c.h"
#include "snapshotter/snapshots_message-internal.h"

#define SERVICE "/containerd.services.snapshots.v1.Snapshots/"

/* Short names for what the generator calls by the whole of its package. */
#define REQUEST(name)    Containerd__Services__Snapshots__V1__##name
#define DESCRIPTOR(name) &containerd__services__snapshots__v1__##name##__descriptor

enum {
    /* An answer of List ends with the first of these; containerd's own has the same count. */
    LIST_BATCH_COUNT = 100,
    LIST_BATCH_BYTES = 1 << 20,
};

/* CommitSnapshotRequest.parent, since containerd 2.2. */
#define COMMIT_PARENT 5

/* What a method does: appends its answer to `answer`, or has sent answers itself. */
struct operation {
    const char *path;
    const ProtobufCMessageDescriptor *request;
    int (*run)(struct snapshotter *snapshotter, const void *request, struct grpc_call *call,
               struct buffer *answer, struct error **error);
};

static int run_prepare(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                       struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(PrepareSnapshotRequest) *request = message;
    cleanup_labels struct labels labels = { 0 };
    cleanup_mount_list struct mount_list mounts = { 0 };
    if (labels_of_map(request->labels, request->n_labels, &labels, error) < 0 ||
        snapshotter_prepare(snapshotter, request->key, request->parent, &labels, &mounts, error) <
            0)
        return -1;
    return append_mounts(answer, &mounts) < 0 ? error_set_memory(error) : 0;
}

static int run_view(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                    struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(ViewSnapshotRequest) *request = message;
    cleanup_labels struct labels labels = { 0 };
    cleanup_mount_list struct mount_list mounts = { 0 };
    if (labels_of_map(request->labels, request->n_labels, &labels, error) < 0 ||
        snapshotter_view(snapshotter, request->key, request->parent, &labels, &mounts, error) < 0)
        return -1;
    return append_mounts(answer, &mounts) < 0 ? error_set_memory(error) : 0;
}

static int run_mounts(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                      struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(MountsRequest) *request = message;
    cleanup_mount_list struct mount_list mounts = { 0 };
    if (snapshotter_mounts(snapshotter, request->key, &mounts, error) < 0) return -1;
    return append_mounts(answer, &mounts) < 0 ? error_set_memory(error) : 0;
}

static int run_commit(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                      struct buffer *answer, struct error **error)
{
    (void)call;
    (void)answer;
    const REQUEST(CommitSnapshotRequest) *request = message;
    cleanup_labels struct labels labels = { 0 };
    cleanup_free char *parent = newer_text(&request->base, COMMIT_PARENT, error);
    if (!parent || labels_of_map(request->labels, request->n_labels, &labels, error) < 0) return -1;
    return snapshotter_commit(snapshotter, request->name, request->key, parent, &labels, error);
}

static int run_remove(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                      struct buffer *answer, struct error **error)
{
    (void)call;
    (void)answer;
    const REQUEST(RemoveSnapshotRequest) *request = message;
    return snapshotter_remove(snapshotter, request->key, error);
}

static int run_stat(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                    struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(StatSnapshotRequest) *request = message;
    cleanup_snapshot_info struct snapshot_info info = { 0 };
    if (snapshotter_stat(snapshotter, request->key, &info, error) < 0) return -1;
    return append_info(answer, &info) < 0 ? error_set_memory(error) : 0;
}

static int run_update(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                      struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(UpdateSnapshotRequest) *request = message;
    cleanup_labels struct labels labels = { 0 };
    cleanup_snapshot_info struct snapshot_info info = { 0 };
    if (!request->info) return error_set(error, ERROR_INVALID, "update of no snapshot");
    if (labels_of_map(request->info->labels, request->info->n_labels, &labels, error) < 0)
        return -1;
    const struct snapshot_info wanted = {
        .kind = (enum snapshot_kind)request->info->kind,
        .name = request->info->name,
        .parent = request->info->parent,
        .labels = labels,
    };
    const Google__Protobuf__FieldMask *mask = request->update_mask;
    if (snapshotter_update(snapshotter, &wanted, mask ? (const char *const *)mask->paths : NULL,
                           mask ? mask->n_paths : 0, &info, error) < 0)
        return -1;
    return append_info(answer, &info) < 0 ? error_set_memory(error) : 0;
}

struct list_batch {
    struct grpc_call *call;
    struct buffer *infos;
    size_t count;
};

static int send_batch(struct list_batch *batch, struct error **error)
{
    if (batch->count == 0) return 0;
    if (grpc_call_send(batch->call, batch->infos->data, batch->infos->length) < 0)
        return error_set(error, ERROR_CANCELLED, "list snapshots: nobody waits for them");
    batch->infos->length = 0;
    batch->count = 0;
    return 0;
}

static int list_one(void *context, const struct snapshot_info *info, struct error **error)
{
    struct list_batch *batch = context;
    if (append_info(batch->infos, info) < 0) return error_set_memory(error);
    batch->count++;
    if (batch->count < LIST_BATCH_COUNT && batch->infos->length < LIST_BATCH_BYTES) return 0;
    return send_batch(batch, error);
}

static int run_list(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                    struct buffer *answer, struct error **error)
{
    const REQUEST(ListSnapshotsRequest) *request = message;
    struct list_batch batch = { call, answer, 0 };
    if (snapshotter_list(snapshotter, (const char *const *)request->filters, request->n_filters,
                         list_one, &batch, error) < 0)
        return -1;
    return send_batch(&batch, error);
}

static int run_usage(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                     struct buffer *answer, struct error **error)
{
    (void)call;
    const REQUEST(UsageRequest) *request = message;
    struct snapshot_usage usage = { 0 };
    if (snapshotter_usage(snapshotter, request->key, &usage, error) < 0) return -1;
    return append_usage(answer, &usage) < 0 ? error_set_memory(error) : 0;
}

static int run_cleanup(struct snapshotter *snapshotter, const void *message, struct grpc_call *call,
                       struct buffer *answer, struct error **error)
{
    (void)message;
    (void)call;
    (void)answer;
    return snapshotter_cleanup(snapshotter, error);
}

static const struct operation operations[SNAPSHOTS_METHOD_COUNT] = {
    { SERVICE "Prepare", DESCRIPTOR(prepare_snapshot_request), run_prepare },
    { SERVICE "View", DESCRIPTOR(view_snapshot_request), run_view },
    { SERVICE "Mounts", DESCRIPTOR(mounts_request), run_mounts },
    { SERVICE "Commit", DESCRIPTOR(commit_snapshot_request), run_commit },
    { SERVICE "Remove", DESCRIPTOR(remove_snapshot_request), run_remove },
    { SERVICE "Stat", DESCRIPTOR(stat_snapshot_request), run_stat },
    { SERVICE "Update", DESCRIPTOR(update_snapshot_request), run_update },
    { SERVICE "List", DESCRIPTOR(list_snapshots_request), run_list },
    { SERVICE "Usage", DESCRIPTOR(usage_request), run_usage },
    { SERVICE "Cleanup", DESCRIPTOR(cleanup_request), run_cleanup },
};

static const struct operation *operation_of(const struct grpc_call *call)
{
    const struct operation *operation = operations;
    while (strcmp(operation->path, grpc_call_path(call)) != 0)
        operation++;
    return operation;
}

/* ---- counting ---- */

static void count_call(struct snapshots_service *service, const struct operation *operation,
                       enum grpc_status status, uint64_t begun)
{
    struct snapshots_calls *calls = &service->calls[operation - operations][status];
    atomic_fetch_add(&calls->count, 1);
    atomic_fetch_add(&calls->microseconds, clock_us() - begun);
}

json_t *snapshots_service_calls(struct snapshots_service *service)
{
    json_t *list = json_array();
    for (size_t i = 0; i < SNAPSHOTS_METHOD_COUNT; i++)
        for (unsigned status = 0; status < GRPC_STATUS_COUNT; status++) {
            struct snapshots_calls *calls = &service->calls[i][status];
            uint64_t count = atomic_load(&calls->count);
            if (count == 0) continue;
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f}", "method",
                                                  operations[i].path + strlen(SERVICE), "code",
                                                  grpc_status_name((enum grpc_status)status),
                                                  "count", (json_int_t)count, "seconds",
                                                  (double)atomic_load(&calls->microseconds) / 1e6));
        }
    return list;
}

/* ---- answering ---- */

/* The call is not ended yet. */
static int run(struct snapshotter *snapshotter, const struct operation *operation,
               struct grpc_call *call, struct buffer *answer, struct error **error)
{
    const struct buffer *bytes = grpc_call_request(call);
    ProtobufCMessage *request = request_read(operation->request, bytes->data, bytes->length, error);
    int result = request ? operation->run(snapshotter, request, call, answer, error) : -1;
    request_free(request);
    return result;
}

static void handle(struct grpc_call *call, void *context)
{
    struct snapshots_service *service = context;
    const struct operation *operation = operation_of(call);
    uint64_t begun = clock_us();
    struct error *error = NULL;
    cleanup_buffer struct buffer answer = { 0 };
    int result = run(service->snapshotter, operation, call, &answer, &error);
    count_call(service, operation, result < 0 ? grpc_status_of(error) : GRPC_OK, begun);
    if (result < 0) {
        log_debug("%s: %s", operation->path + strlen(SERVICE), error_message(error));
        grpc_call_fail(call, error);
        return;
    }
    if (operation->run != run_list) grpc_call_send(call, answer.data, answer.length);
    grpc_call_end(call, GRPC_OK, NULL);
}

void snapshots_service_methods(struct snapshots_service *service,
                               struct grpc_method ret[static SNAPSHOTS_METHOD_COUNT])
{
    for (size_t i = 0; i < SNAPSHOTS_METHOD_COUNT; i++)
        ret[i] = (struct grpc_method){ operations[i].path, handle, service };
}
