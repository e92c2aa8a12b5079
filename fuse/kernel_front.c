#include "fuse/kernel_front.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fuse/device_files.h"

struct kernel_front {
    const struct mounter *mounter; /* borrowed */
    struct device_files *files;    /* NULL: every device is a complete file */
    int end;                       /* readable: the file system is gone */
    int wake;                      /* eventfd */
    bool attached;
};

static void detach(struct kernel_front *front)
{
    if (!front->attached) return;
    front->attached = false;
    front->mounter->detach(front->mounter->context);
}

void kernel_front_refuse(struct kernel_front *front, uint32_t layer)
{
    if (front->files) device_files_refuse(front->files, layer);
}

void kernel_front_set_readahead(struct kernel_front *front, unsigned kibibytes)
{
    front->mounter->tune(front->mounter->context, kibibytes);
}

static int serve_devices(struct kernel_front *front, const struct erofs_image *image,
                         struct layer_device *const *devices, uint32_t device_count,
                         const struct kernel_front_options *options, struct error **error)
{
    int connection = front->mounter->attach_devices(front->mounter->context, error);
    if (connection < 0) return -1;
    return device_files_start(&front->files, connection, image, devices, device_count,
                              options->reader, options->mapping, options->lasting, error);
}

static int attach(struct kernel_front *front, const struct erofs_image *image,
                  struct layer_device *const *devices, uint32_t device_count,
                  const struct kernel_front_options *options, struct error **error)
{
    uint32_t total = device_count + (image->sparse_device ? 1 : 0);
    cleanup_free int *complete = malloc((total + 1u) * sizeof *complete);
    if (!complete) return error_set_memory(error);
    bool all = true;
    for (uint32_t i = 0; i < total; i++) {
        complete[i] = options->complete && i < device_count ? options->complete[i] : -1;
        all = all && complete[i] >= 0;
    }
    if (!all && serve_devices(front, image, devices, device_count, options, error) < 0) return -1;
    struct kernel_tree tree = { .source = options->source,
                                .metadata = options->metadata,
                                .devices = complete,
                                .device_count = total };
    front->end = front->mounter->attach_kernel(front->mounter->context, &tree, error);
    front->attached = front->end >= 0;
    if (!front->attached) return -1;
    kernel_front_set_readahead(front, options->readahead);
    return 0;
}

static int resume(struct kernel_front *front, const struct erofs_image *image,
                  struct layer_device *const *devices, uint32_t device_count,
                  const struct kernel_front_options *options, struct error **error)
{
    front->end = options->resumed->end;
    front->attached = true;
    if (options->resumed->connection < 0) return 0;
    return device_files_start(&front->files, options->resumed->connection, image, devices,
                              device_count, options->reader, options->mapping, options->lasting,
                              error);
}

static void close_resumed(const struct kernel_front_resumed *resumed)
{
    if (!resumed) return;
    if (resumed->connection >= 0) close(resumed->connection);
    close(resumed->end);
}

static struct kernel_front *make_front(const struct erofs_image *image, uint32_t device_count,
                                       const struct kernel_front_options *options,
                                       struct error **error)
{
    if (device_count != image->device_count) {
        error_set(error, ERROR_INVALID, "metadata: wants %u devices, there are %u",
                  image->device_count, device_count);
        return NULL;
    }
    struct kernel_front *front = calloc(1, sizeof *front);
    if (!front) {
        error_set_memory(error);
        return NULL;
    }
    front->mounter = options->mounter;
    front->end = -1;
    front->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (front->wake >= 0) return front;
    error_set_errno(error, errno, "make an eventfd");
    free(front);
    return NULL;
}

int kernel_front_mount(struct kernel_front **ret, const struct erofs_image *image,
                       struct layer_device *const *devices, uint32_t device_count,
                       const struct kernel_front_options *options, struct error **error)
{
    struct kernel_front *front = make_front(image, device_count, options, error);
    if (!front) {
        close_resumed(options->resumed);
        return -1;
    }
    int result = options->resumed ? resume(front, image, devices, device_count, options, error)
                                  : attach(front, image, devices, device_count, options, error);
    if (result < 0) {
        /* What was mounted by another server stays; only the readers of this one are told. */
        if (options->resumed) front->attached = false;
        kernel_front_free(front);
        return -1;
    }
    *ret = front;
    return 0;
}

static void wait_for_end(const struct kernel_front *front)
{
    struct pollfd watched[] = {
        { .fd = front->wake, .events = POLLIN },
        { .fd = front->end, .events = POLLIN },
        { .fd = front->files ? device_files_descriptor(front->files) : -1, .events = POLLIN },
    };
    while (poll(watched, sizeof watched / sizeof *watched, -1) < 0 && errno == EINTR)
        continue;
}

int kernel_front_connection(const struct kernel_front *front)
{
    return front->files ? device_files_connection(front->files) : -1;
}

const struct fuse_negotiated *kernel_front_negotiated(const struct kernel_front *front)
{
    return front->files ? device_files_negotiated(front->files) : NULL;
}

int kernel_front_serve(struct kernel_front *front, void (*ready)(void *context), void *context,
                       struct error **error)
{
    if (ready) ready(context);
    wait_for_end(front);
    detach(front);
    return front->files ? device_files_stop(front->files, error) : 0;
}

void kernel_front_stop(struct kernel_front *front)
{
    int saved = errno;
    /* Only fails when the counter is full, and then it is awake. */
    eventfd_write(front->wake, 1);
    errno = saved;
}

void kernel_front_free(struct kernel_front *front)
{
    if (!front) return;
    detach(front);
    device_files_free(front->files);
    if (front->end >= 0) close(front->end);
    if (front->wake >= 0) close(front->wake);
    free(front);
}
