#include "node/front.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/kernel_front.h"
#include "fuse/rootfs.h"

/* One of both. */
struct front {
    struct kernel_front *kernel;
    struct rootfs *rootfs;
    char *reason;
    bool *has_file; /* of each layer; or NULL */
};

static unsigned readahead_kibibytes(enum front_readahead readahead)
{
    return readahead == READAHEAD_MUCH ? 1024 : 128;
}

static const char *const kind_names[] = { "auto", "erofs", "fuse" };

const char *front_kind_name(enum front_kind kind)
{
    return kind_names[kind];
}

int front_parse(enum front_kind *ret, const char *text, struct error **error)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof *kind_names; i++) {
        if (strcmp(text, kind_names[i]) != 0) continue;
        *ret = (enum front_kind)i;
        return 0;
    }
    return error_set(error, ERROR_INVALID, "'%s' is none of auto, erofs and fuse", text);
}

/* Descriptors for the kernel, or -1. */
static void open_sealed(int *complete, struct layer_device *const *devices, uint32_t device_count,
                        const struct front_options *options)
{
    for (uint32_t i = 0; i < device_count; i++) {
        cleanup_error struct error *error = NULL;
        complete[i] = -1;
        if (options->all_through_server) continue;
        if (layer_cache_open_sealed(layer_device_cache(devices[i]), &complete[i], &error) == 0 ||
            error_kind_of(error) == ERROR_NOT_FOUND)
            continue;
        log_info("layer %u is not given to the kernel as a file: %s", i + 1, error_message(error));
    }
}

static int mount_files(struct front *front, const struct node_image *node,
                       struct layer_device *const *devices, uint32_t device_count,
                       const struct front_options *options, const int *complete,
                       struct error **error)
{
    const struct mapping *mapping = node->metadata_content.mapping;
    /* The very file that was validated: behind its name there may be another one by now, or none.
     */
    int metadata = mapping ? mapping_file(mapping) : -1;
    if (metadata < 0)
        return error_set(error, ERROR_UNSUPPORTED,
                         "the cache could not keep the metadata, and the kernel needs a file");
    struct kernel_front_options kernel = { .source = node->image.name,
                                           .mounter = options->mounter,
                                           .metadata = metadata,
                                           .mapping = mapping,
                                           .reader = options->reader,
                                           .readahead = readahead_kibibytes(options->readahead),
                                           .complete = complete,
                                           .lasting = options->lasting };
    return kernel_front_mount(&front->kernel, &node->metadata, devices, device_count, &kernel,
                              error);
}

static int mount_by_kernel(struct front *front, const struct node_image *node,
                           struct layer_device *const *devices, uint32_t device_count,
                           const struct front_options *options, struct error **error)
{
    cleanup_free int *complete = malloc((device_count + 1u) * sizeof *complete);
    front->has_file = calloc(device_count + 1u, sizeof *front->has_file);
    if (!complete || !front->has_file) return error_set_memory(error);
    open_sealed(complete, devices, device_count, options);
    int result = mount_files(front, node, devices, device_count, options, complete, error);
    for (uint32_t i = 0; i < device_count; i++) {
        front->has_file[i] = result == 0 && complete[i] >= 0;
        if (complete[i] >= 0) close(complete[i]);
    }
    return result;
}

static int mount_by_fuse(struct front *front, const struct node_image *node,
                         struct layer_device *const *devices, uint32_t device_count,
                         const struct front_options *options, struct error **error)
{
    struct rootfs_options rootfs = { .mountpoint = options->mountpoint,
                                     .source = node->image.name,
                                     .metadata = node->metadata_content.mapping,
                                     .reader = options->reader,
                                     .readahead = readahead_kibibytes(options->readahead),
                                     .mounter = options->mounter,
                                     .lasting = options->lasting };
    return rootfs_mount(&front->rootfs, &node->metadata, devices, device_count, &rootfs, error);
}

/* *ret_reason is in fresh memory, or NULL where there is none. */
static int mount_either(struct front *front, const struct node_image *node,
                        struct layer_device *const *devices, uint32_t device_count,
                        const struct front_options *options, char **ret_reason,
                        struct error **error)
{
    struct error *why = NULL;
    *ret_reason = NULL;
    if (options->kind != FRONT_FUSE) {
        if (mount_by_kernel(front, node, devices, device_count, options, &why) == 0) {
            *ret_reason = strdup(options->kind == FRONT_AUTO ? "the kernel can" : "asked for");
            return 0;
        }
        if (options->kind == FRONT_EROFS) {
            error_move(error, why);
            error_prefix(error, "kernel front door");
            return error_hint(error, "--front auto takes FUSE where the kernel cannot");
        }
    }
    *ret_reason = strdup(why ? error_message(why) : "asked for");
    error_free(why);
    return mount_by_fuse(front, node, devices, device_count, options, error);
}

/* ---- what another server has mounted ---- */

static int resume_kernel(struct front *front, const struct node_image *node,
                         struct layer_device *const *devices, uint32_t device_count,
                         const struct front_options *options, const struct fuse_lasting *lasting,
                         struct error **error)
{
    const struct front_resumed *resumed = options->resumed;
    struct kernel_front_resumed descriptors = { resumed->connection, resumed->end };
    struct kernel_front_options kernel = { .source = node->image.name,
                                           .mounter = options->mounter,
                                           .mapping = node->metadata_content.mapping,
                                           .reader = options->reader,
                                           .metadata = -1,
                                           .lasting = lasting,
                                           .resumed = &descriptors };
    front->has_file = calloc(device_count + 1u, sizeof *front->has_file);
    size_t known = strlen(resumed->files);
    for (uint32_t i = 0; front->has_file && i < device_count && i < known; i++)
        front->has_file[i] = resumed->files[i] == '1';
    return kernel_front_mount(&front->kernel, &node->metadata, devices, device_count, &kernel,
                              error);
}

static int resume(struct front *front, const struct node_image *node,
                  struct layer_device *const *devices, uint32_t device_count,
                  const struct front_options *options, struct error **error)
{
    const struct front_resumed *resumed = options->resumed;
    struct fuse_lasting lasting = *options->lasting;
    if (resumed->has_negotiated) lasting.negotiated = &resumed->negotiated;
    front->reason = strdup(resumed->reason);
    if (resumed->by_kernel)
        return resume_kernel(front, node, devices, device_count, options, &lasting, error);
    struct rootfs_options rootfs = { .mountpoint = options->mountpoint,
                                     .source = node->image.name,
                                     .metadata = node->metadata_content.mapping,
                                     .reader = options->reader,
                                     .readahead = readahead_kibibytes(options->readahead),
                                     .mounter = options->mounter,
                                     .lasting = &lasting,
                                     .resumed = resumed->connection };
    return rootfs_mount(&front->rootfs, &node->metadata, devices, device_count, &rootfs, error);
}

static void close_resumed(const struct front_resumed *resumed)
{
    if (!resumed) return;
    if (resumed->connection >= 0) close(resumed->connection);
    if (resumed->end >= 0) close(resumed->end);
}

int front_mount(struct front **ret, const struct node_image *node,
                struct layer_device *const *devices, uint32_t device_count,
                const struct front_options *options, struct error **error)
{
    struct front *front = calloc(1, sizeof *front);
    if (!front) {
        close_resumed(options->resumed);
        return error_set_memory(error);
    }
    int result = options->resumed ? resume(front, node, devices, device_count, options, error)
                                  : mount_either(front, node, devices, device_count, options,
                                                 &front->reason, error);
    if (result == 0 && !front->reason) result = error_set_memory(error);
    if (result < 0) {
        front_free(front);
        return -1;
    }
    log_info("front door: %s (%s)", front_name(front), front->reason);
    *ret = front;
    return 0;
}

int front_connection(const struct front *front)
{
    return front->kernel ? kernel_front_connection(front->kernel)
                         : rootfs_connection(front->rootfs);
}

const struct fuse_negotiated *front_negotiated(const struct front *front)
{
    return front->kernel ? kernel_front_negotiated(front->kernel)
                         : rootfs_negotiated(front->rootfs);
}

int front_serve(struct front *front, void (*ready)(void *context), void *context,
                struct error **error)
{
    if (front->kernel) return kernel_front_serve(front->kernel, ready, context, error);
    return rootfs_serve(front->rootfs, ready, context, error);
}

void front_refuse(struct front *front, uint32_t layer)
{
    if (front->kernel)
        kernel_front_refuse(front->kernel, layer);
    else
        rootfs_refuse(front->rootfs, layer);
}

void front_set_readahead(struct front *front, enum front_readahead readahead)
{
    if (front->kernel)
        kernel_front_set_readahead(front->kernel, readahead_kibibytes(readahead));
    else
        rootfs_set_readahead(front->rootfs, readahead_kibibytes(readahead));
}

void front_stop(struct front *front)
{
    if (front->kernel)
        kernel_front_stop(front->kernel);
    else
        rootfs_stop(front->rootfs);
}

void front_free(struct front *front)
{
    if (!front) return;
    kernel_front_free(front->kernel);
    rootfs_free(front->rootfs);
    free(front->reason);
    free(front->has_file);
    free(front);
}

bool front_has_file(const struct front *front, uint32_t layer)
{
    return front->has_file && front->has_file[layer];
}

const char *front_name(const struct front *front)
{
    return front->kernel ? "erofs" : "fuse";
}

const char *front_reason(const struct front *front)
{
    return front->reason;
}
