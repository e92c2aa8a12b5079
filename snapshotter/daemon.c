#include "snapshotter/daemon.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/control.h"
#include "snapshotter/grpc_server.h"
#include "snapshotter/metrics.h"
#include "snapshotter/snapshots_service.h"

struct daemon {
    const struct config *config;
    struct snapshotter *snapshotter;
    struct grpc_method methods[SNAPSHOTS_METHOD_COUNT];
    struct grpc_server *server;
    struct control_server *control;
    struct metrics_listener *metrics;
    time_t started;
};

/* ---- status ---- */

static json_int_t resident_bytes(void)
{
    cleanup_buffer struct buffer text = { 0 };
    unsigned long long pages = 0;
    if (file_read("/proc/self/statm", 4096, &text, NULL) < 0 || buffer_append_u8(&text, 0) < 0 ||
        sscanf((const char *)text.data, "%*u %llu", &pages) != 1)
        return 0;
    return (json_int_t)pages * sysconf(_SC_PAGESIZE);
}

static json_int_t open_files(void)
{
    json_int_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    const struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        count += entry->d_name[0] != '.';
    if (directory) closedir(directory);
    /* The one that was open to count them. */
    return count > 0 ? count - 1 : 0;
}

json_t *daemon_status(struct daemon *daemon)
{
    return json_pack("{s:{s:s, s:I, s:I, s:s, s:s, s:I, s:I}}", "daemon", "version", SLUICE_VERSION,
                     "pid", (json_int_t)getpid(), "started", (json_int_t)daemon->started, "address",
                     daemon->config->address, "root", daemon->config->root, "resident_bytes",
                     resident_bytes(), "open_files", open_files());
}

char *daemon_unhealthy(struct daemon *daemon)
{
    (void)daemon;
    return NULL;
}

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

static int open_snapshots(struct daemon *daemon, struct error **error)
{
    const struct snapshotter_options options = { .root = daemon->config->root };
    return snapshotter_open(&daemon->snapshotter, &options, error);
}

static int make_directory_of(const char *socket, struct error **error)
{
    const char *slash = strrchr(socket, '/');
    cleanup_free char *directory = strndup(socket, (size_t)(slash - socket));
    if (!directory) return error_set_memory(error);
    return *directory ? directory_make(directory, 0700, error) : 0;
}

static int listen_for_people(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    const struct metrics_source source = { .status = metrics_status,
                                           .unhealthy = metrics_unhealthy,
                                           .context = daemon };
    cleanup_free char *socket = control_socket_path(config->root, error);
    if (!socket || control_server_start(&daemon->control, socket, write_status, daemon, error) < 0)
        return error_prefix(error, "status of '%s'", config->root);
    if (!config->metrics.address) return 0;
    return metrics_listener_start(&daemon->metrics, config->metrics.address, &source, error);
}

static int start(struct daemon *daemon, struct error **error)
{
    const struct config *config = daemon->config;
    if (open_snapshots(daemon, error) < 0 || listen_for_people(daemon, error) < 0 ||
        make_directory_of(config->address, error) < 0)
        return -1;
    snapshots_service_methods(daemon->snapshotter, daemon->methods);
    return grpc_server_start(&daemon->server, config->address, daemon->methods,
                             SNAPSHOTS_METHOD_COUNT, error);
}

int daemon_start(struct daemon **ret, const struct config *config, struct error **error)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    if (!daemon) return error_set_memory(error);
    daemon->config = config;
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
    metrics_listener_stop(daemon->metrics);
    control_server_stop(daemon->control);
    grpc_server_stop(daemon->server);
    snapshotter_free(daemon->snapshotter);
    free(daemon);
}
