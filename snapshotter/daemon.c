#include "snapshotter/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/daemon-internal.h"
#include "snapshotter/service_notify.h"

#define LOCK_MS       5000
#define LOCK_AGAIN_NS 50000000L

/* control_status */
static int write_status(void *context, struct buffer *ret)
{
    cleanup_json json_t *status = daemon_status(context);
    cleanup_free char *text = status ? json_dumps(status, JSON_COMPACT) : NULL;
    return text ? buffer_append(ret, text, strlen(text)) : -1;
}

static json_t *metrics_status(void *context)
{
    return daemon_status(context);
}

static char *metrics_unhealthy(void *context)
{
    return daemon_unhealthy(context);
}

/* ---- start ---- */

/* Before anything else: a second daemon at one root would take what the holder keeps for the first.
 * One that is about to end is waited for. */
static int lock_root(struct daemon *daemon, struct error **error)
{
    const char *root = daemon->config->root;
    if (directory_make(root, 0700, error) < 0) return -1;
    daemon->lock = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (daemon->lock < 0) return error_set_errno(error, errno, "open '%s'", root);
    uint64_t until = clock_ms() + LOCK_MS;
    while (flock(daemon->lock, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set_errno(error, errno, "lock '%s'", root);
        if (clock_ms() >= until) {
            error_set(error, ERROR_PRECONDITION, "another sluiced runs with '%s'", root);
            return error_hint(error, "'sluice status' tells of it");
        }
        nanosleep(&(struct timespec){ .tv_nsec = LOCK_AGAIN_NS }, NULL);
    }
    return 0;
}

static int start_images(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    daemon->cache = config->cache.directory ? strdup(config->cache.directory)
                                            : format_text("%s/cache", config->root);
    cleanup_free char *lazy = format_text("%s/lazy", config->root);
    if (!daemon->cache || !lazy) return error_set_memory(error);
    const struct credential_store_options credentials = {
        .keep_ms = config->credentials.keep_ms,
        .provider_config = config->credentials.provider_config,
        .provider_directory = config->credentials.provider_directory,
    };
    daemon->credentials = credential_store_new(&credentials, error);
    if (!daemon->credentials) return -1;
    const struct node_client_options options = {
        .node = { .cache = daemon->cache,
                  .cache_limits = config->cache.limits,
                  .hosts_directory = config->registry.hosts_directory,
                  .credentials = credential_store_find,
                  .credentials_context = daemon->credentials,
                  .read_timeout_seconds = (unsigned)(config->lazy.read_timeout_ms / 1000) },
        .watchdog_ms = (unsigned)config->server.watchdog_ms,
        .holder = config->holder.socket,
    };
    if (node_client_start(&daemon->node, &options, error) < 0)
        return error_prefix(error, "start the server of images");
    return lazy_images_open(&daemon->lazy, lazy, config, daemon->node, error);
}

/* What is in use is known also where the store is not wanted any more. */
static int open_layers(struct daemon *daemon, struct error **error)
{
    cleanup_free char *file = format_text("%s/layers.json", daemon->config->root);
    if (!file) return error_set_memory(error);
    return layer_store_open(&daemon->layers, file, daemon->lazy, error);
}

static int start_layers(struct daemon *daemon, struct error **error)
{
    const char *path = daemon->config->layer_store.path;
    return path ? layer_store_start(daemon->layers, path, error) : 0;
}

static int open_snapshots(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    const struct snapshotter_options options = {
        .root = config->root,
        .lazy = lazy_images_source(daemon->lazy),
        .overlay_options = (const char *const *)config->snapshots.mount_options.entries,
        .overlay_option_count = config->snapshots.mount_options.count,
        .remap_ids = config->snapshots.remap_ids,
    };
    return snapshotter_open(&daemon->snapshotter, &options, error);
}

static int make_directory_of(const char *socket, struct error **error)
{
    const char *slash = strrchr(socket, '/');
    cleanup_free char *directory = strndup(socket, (size_t)(slash - socket));
    if (!directory) return error_set_memory(error);
    return *directory ? directory_make(directory, 0700, error) : 0;
}

static int listen_for_kubelet(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    if (!config->credentials.image_service) return 0;
    if (make_directory_of(config->credentials.image_service, error) < 0) return -1;
    return cri_proxy_start(&daemon->cri, config->credentials.image_service,
                           config->credentials.containerd, daemon->credentials, error);
}

static int listen_for_people(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    const struct metrics_source source = { .images = config->metrics.images,
                                           .status = metrics_status,
                                           .unhealthy = metrics_unhealthy,
                                           .context = daemon };
    const char *address = config->metrics.address;
    if (address && metrics_listener_start(&daemon->metrics, address, &source, error) < 0) return -1;
    cleanup_free char *socket = control_socket_path(config->root, error);
    if (!socket || control_server_start(&daemon->control, socket, write_status, daemon, error) < 0)
        return error_prefix(error, "status of '%s'", config->root);
    return 0;
}

/* Which socket a path names: another one there later is not the one that was kept. */
static char *socket_identity(const char *path)
{
    struct stat status;
    if (lstat(path, &status) < 0 || !S_ISSOCK(status.st_mode)) return NULL;
    return format_text("snapshots-%jx-%jx", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
}

/* containerd waits longer after each time that it is refused, so it had better not be: while there
 * is no daemon its connections wait in the socket, where a service manager keeps that. */
static int listen_for_containerd(struct daemon *daemon, struct error **error)
{
    const char *address = daemon->config->address;
    if (make_directory_of(address, error) < 0) return -1;
    daemon->service.snapshotter = daemon->snapshotter;
    snapshots_service_methods(&daemon->service, daemon->methods);
    if (grpc_server_start_on(&daemon->server, take_descriptor(&daemon->kept_socket), address,
                             daemon->methods, SNAPSHOTS_METHOD_COUNT, error) < 0)
        return -1;
    cleanup_free char *identity = socket_identity(address);
    if (identity && service_keep(identity, grpc_server_listener(daemon->server)))
        grpc_server_leave_socket(daemon->server);
    return 0;
}

static int start(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    cleanup_free char *identity = socket_identity(config->address);
    daemon->kept_socket = service_kept(identity);
    if (lock_root(daemon, error) < 0 || start_images(daemon, error) < 0 ||
        open_layers(daemon, error) < 0 || open_snapshots(daemon, error) < 0 ||
        start_layers(daemon, error) < 0 || listen_for_kubelet(daemon, error) < 0 ||
        listen_for_people(daemon, error) < 0)
        return -1;
    return listen_for_containerd(daemon, error);
}

int daemon_start(struct daemon **ret, const struct config *config, struct error **error)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    if (!daemon) return error_set_memory(error);
    daemon->config = config;
    daemon->lock = daemon->kept_socket = -1;
    daemon->started = time(NULL);
    if (start(daemon, error) < 0) {
        daemon_stop(daemon);
        return -1;
    }
    *ret = daemon;
    return 0;
}

void daemon_stop(struct daemon *daemon)
{
    if (!daemon) return;
    lazy_images_stop(daemon->lazy);
    control_server_stop(daemon->control);
    metrics_listener_stop(daemon->metrics);
    cri_proxy_stop(daemon->cri);
    grpc_server_stop(daemon->server);
    layer_store_free(daemon->layers);
    snapshotter_free(daemon->snapshotter);
    lazy_images_free(daemon->lazy);
    node_client_stop(daemon->node);
    credential_store_free(daemon->credentials);
    if (daemon->lock >= 0) close(daemon->lock);
    if (daemon->kept_socket >= 0) close(daemon->kept_socket);
    free(daemon->cache);
    free(daemon);
}
