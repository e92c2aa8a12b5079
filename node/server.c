#include "node/server.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/file.h"
#include "fuse/control.h"
#include "node/broker.h"
#include "node/process_status.h"

struct server {
    const struct server_options *options;
    struct broker *broker;
    struct broker_mount mount;
    struct confinement confinement;
    struct node node;
    struct mounted_image *image;
    struct control_server *control;
    time_t started;
};

/* control_status */
static int write_status(void *context, struct buffer *ret)
{
    const struct server *server = context;
    cleanup_json json_t *image = mounted_image_status(server->image);
    cleanup_json json_t *root =
        image ? process_status(&server->node, &server->confinement, server->started) : NULL;
    if (!root || json_is_null(json_object_get(image, "front")) ||
        json_object_update_missing(root, image) < 0)
        return -1;
    cleanup_free char *text = json_dumps(root, JSON_COMPACT);
    return text ? buffer_append(ret, text, strlen(text)) : -1;
}

/* ---- signals ---- */

static struct mounted_image *stopped_by_signal;

static void stop_on_signal(int number)
{
    (void)number;
    mounted_image_stop(stopped_by_signal);
}

static sigset_t stop_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    return signals;
}

static void catch_signals(struct mounted_image *image)
{
    struct sigaction action = { .sa_handler = image ? stop_on_signal : SIG_DFL };
    stopped_by_signal = image;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* ---- start and end ---- */

/* From the socket on there is something to leave behind, so a signal must not end the process
 * where it stands: it waits until there is a handler. */
static int mount_tree(struct server *server, struct error **error)
{
    const char *mountpoint = server->options->image.mountpoint;
    cleanup_free char *socket = control_socket_path(mountpoint, error);
    if (!socket) return -1;
    sigset_t signals = stop_signals();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (control_server_start(&server->control, socket, write_status, server, error) < 0)
        return error_prefix(error, "mount on '%s'", mountpoint);
    if (mounted_image_mount(server->image, error) < 0) return -1;
    catch_signals(server->image);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    return 0;
}

/* In fresh memory. */
static char *directory_of(const char *absolute)
{
    const char *slash = strrchr(absolute, '/');
    return slash == absolute ? strdup("/") : strndup(absolute, (size_t)(slash - absolute));
}

/* Before there is another thread, and before the first byte comes from outside. */
static int give_up_privileges(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    const char *record = options->image.record;
    cleanup_free char *run_directory = control_run_directory(error);
    if (!run_directory || directory_make(options->node.cache, 0700, error) < 0 ||
        broker_start(&server->broker, options->image.mountpoint, options->allow_suid,
                     options->allow_devices, error) < 0)
        return -1;
    cleanup_free char *record_directory = NULL;
    if (record && !(record_directory = directory_of(record))) return error_set_memory(error);
    const char *const writable[] = { options->node.cache, run_directory, record_directory };
    confine_process(writable, record_directory ? 3 : 2, &server->confinement);
    return 0;
}

static int start(struct server *server, struct error **error)
{
    struct node_options node = server->options->node;
    struct mounted_image_options image = server->options->image;
    if (give_up_privileges(server, error) < 0) return -1;
    node.credentials = broker_credentials;
    node.credentials_context = server->broker;
    broker_mount_init(&server->mount, server->broker, 0);
    image.mounter = &server->mount.mounter;
    if (node_open(&server->node, &node, error) < 0 ||
        mounted_image_new(&server->image, &server->node, &image, error) < 0)
        return -1;
    return mount_tree(server, error);
}

/* Those who wait for the end are told last. */
static void stop(struct server *server)
{
    if (server->image) mounted_image_end(server->image);
    control_server_stop(server->control);
    mounted_image_free(server->image);
    node_close(&server->node);
    broker_free(server->broker);
}

struct ready_call {
    struct server *server;
    server_ready *ready;
    void *context;
};

static void tell_ready(void *argument)
{
    struct ready_call *call = argument;
    if (call->ready(call->context) < 0) mounted_image_stop(call->server->image);
}

int server_run(const struct server_options *options, server_ready *ready, void *context,
               struct error **error)
{
    struct server server = { .options = options, .started = time(NULL) };
    struct ready_call call = { &server, ready, context };
    int result = start(&server, error);
    if (result == 0) result = mounted_image_serve(server.image, tell_ready, &call, error);
    catch_signals(NULL);
    stop(&server);
    return result;
}
