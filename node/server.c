#include "node/server.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "fuse/control.h"
#include "fuse/layer_device.h"
#include "node/broker.h"
#include "node/fill.h"
#include "node/front.h"
#include "node/image_check.h"
#include "node/node_image.h"
#include "node/profile_player.h"
#include "node/record_file.h"

struct server {
    const struct server_options *options;
    struct broker *broker;
    struct confinement confinement;
    struct registry_client *client;
    struct cache *cache;
    struct node_image node;
    bool loaded;
    struct data_path *path;
    struct layer_device **devices;
    size_t device_count;
    struct front *front;
    struct profile_player *profile; /* or NULL */
    struct record_file *record;     /* or NULL */
    struct control_server *control;
    struct fill *fill; /* NULL: it is off */
    time_t started;
    pthread_mutex_t status_lock;
    bool stopping; /* under status_lock: what a status tells of is going away */
};

/* ---- status ---- */

static json_t *layer_status(const struct server *server, size_t layer)
{
    char digest[DIGEST_TEXT_SIZE];
    uint32_t chunks_present;
    uint64_t bytes_present;
    const struct chunk_table *table = server->node.tables[layer];
    struct digest note;
    layer_device_presence(server->devices[layer], &chunks_present, &bytes_present);
    bool sealed = layer_cache_is_sealed(layer_device_cache(server->devices[layer]), &note);
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "digest",
                     digest_format(&table->blob_digest, digest), "kind",
                     layer_kind_name(table->kind), "chunks", (json_int_t)table->chunk_count,
                     "chunks_present", (json_int_t)chunks_present, "bytes_present",
                     (json_int_t)bytes_present, "stream_bytes", (json_int_t)table->stream_length,
                     "blob_bytes", (json_int_t)table->blob_length, "sealed", (int)sealed);
}

static void add_size(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void add_text(json_t *object, const char *name, const char *value)
{
    json_object_set_new(object, name, value ? json_any_text(value) : json_null());
}

static void add_counters(json_t *root, struct data_path *path)
{
    struct data_path_statistics counters;
    data_path_statistics(path, &counters);
    add_size(root, "chunks_fetched", counters.chunks_fetched);
    add_size(root, "bytes_fetched", counters.bytes_fetched);
    add_size(root, "window_bytes_fetched", counters.window_bytes_fetched);
    add_size(root, "bytes_decoded", counters.bytes_decoded);
    add_size(root, "bytes_served", counters.bytes_served);
    add_size(root, "reads_hit", counters.reads_hit);
    add_size(root, "reads_missed", counters.reads_missed);
    add_size(root, "chunks_in_flight", counters.chunks_in_flight);
    add_size(root, "reads_waiting", counters.reads_waiting);
    add_size(root, "chunks_damaged", counters.chunks_damaged);
    add_size(root, "store_errors", counters.store_errors);
    add_size(root, "errors", counters.read_errors);
    cleanup_free char *last_error = data_path_last_error(path);
    add_text(root, "last_error", last_error);
}

static json_t *confinement_status(const struct confinement *confinement)
{
    json_t *list = json_array();
    if (confinement->capabilities) json_array_append_new(list, json_string("no-capabilities"));
    if (confinement->no_new_privileges)
        json_array_append_new(list, json_string("no-new-privileges"));
    if (confinement->system_calls) json_array_append_new(list, json_string("system-calls"));
    if (confinement->files) json_array_append_new(list, json_string("files"));
    return list;
}

static int append_status(const struct server *server, struct buffer *ret)
{
    char digest[DIGEST_TEXT_SIZE];
    cleanup_json json_t *root = json_object();
    if (!root) return -1;
    add_text(root, "reference", server->node.image.name);
    add_text(root, "manifest_digest", digest_format(&server->node.image.digest, digest));
    add_text(root, "index_digest", digest_format(&server->node.index_digest, digest));
    add_text(root, "trust", index_trust_name(server->node.trust));
    add_text(root, "mountpoint", server->options->mountpoint);
    add_text(root, "cache", server->options->cache);
    add_text(root, "front", front_name(server->front));
    add_text(root, "front_reason", front_reason(server->front));
    json_object_set_new(root, "confinement", confinement_status(&server->confinement));
    add_size(root, "pid", (uint64_t)getpid());
    add_size(root, "uptime_seconds", (uint64_t)(time(NULL) - server->started));
    add_size(root, "image_bytes", image_blob_bytes(&server->node.image));
    add_size(root, "entries", server->node.metadata.inode_count);
    const struct mapping *metadata = server->node.metadata_content.mapping;
    json_object_set_new(root, "metadata_damaged",
                        json_boolean(metadata && mapping_is_damaged(metadata)));
    add_counters(root, server->path);
    json_object_set_new(root, "profile", profile_player_status(server->profile));
    json_object_set_new(root, "fill", fill_status(server->fill));
    json_t *layers = json_array();
    for (size_t i = 0; i < server->device_count; i++) {
        json_t *layer = layer_status(server, i);
        add_text(layer, "device", front_has_file(server->front, (uint32_t)i) ? "file" : "fuse");
        json_array_append_new(layers, layer);
    }
    json_object_set_new(root, "layers", layers);
    cleanup_free char *text = json_dumps(root, JSON_COMPACT);
    return text ? buffer_append(ret, text, strlen(text)) : -1;
}

/* control_status */
static int write_status(void *context, struct buffer *ret)
{
    struct server *server = context;
    pthread_mutex_lock(&server->status_lock);
    int result = server->stopping || !server->front ? -1 : append_status(server, ret);
    pthread_mutex_unlock(&server->status_lock);
    return result;
}

/* ---- signals ---- */

static struct front *stopped_by_signal;

static void stop_on_signal(int number)
{
    (void)number;
    front_stop(stopped_by_signal);
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

static void catch_signals(struct front *front)
{
    struct sigaction action = { .sa_handler = front ? stop_on_signal : SIG_DFL };
    stopped_by_signal = front;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* ---- start and end ---- */

/* Buffers of a chunk or more go back to the system when they are freed, instead of growing the
 * heap; and threads share few heaps. */
static void bound_heap(void)
{
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

static int open_devices(struct server *server, struct error **error)
{
    const struct node_image *node = &server->node;
    server->devices = calloc(node->artifact.layer_count, sizeof *server->devices);
    if (!server->devices) return error_set_memory(error);
    for (size_t i = 0; i < node->artifact.layer_count; i++) {
        const struct index_layer *layer = &node->artifact.layers[i];
        struct layer_device_source source = {
            .registry = node->image.repository.registry,
            .repository = node->image.repository.name,
            .table = node->tables[i],
            .table_digest = layer->chunks.content_digest,
            .windows_digest = layer->windows.digest,
        };
        if (layer_device_open(server->path, &source, &server->devices[i], error) < 0) return -1;
        server->device_count++;
    }
    return 0;
}

/* What is recorded is what programs read, and not what the kernel reads for them. */
static enum front_readahead choose_readahead(const struct server *server)
{
    bool complete = !server->options->record;
    for (size_t i = 0; i < server->device_count && complete; i++) {
        uint32_t chunks_present;
        uint64_t ignored;
        layer_device_presence(server->devices[i], &chunks_present, &ignored);
        complete = chunks_present == server->node.tables[i]->chunk_count;
    }
    return complete ? READAHEAD_MUCH : READAHEAD_LITTLE;
}

/* Recording needs to know of every read. And what a check finds false is not served any more, which
 * the kernel cannot be told of files that it has. */
static bool must_see_reads(const struct server *server)
{
    struct image_check check = { .node = &server->node, .cache = server->cache };
    if (server->options->record) return true;
    return server->options->fill != FILL_OFF && !image_check_recall(&check);
}

/* From the socket on there is something to leave behind, so a signal must not end the process
 * where it stands: it waits until there is a handler. */
static int mount_tree(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    struct front_options how = { .kind = options->front,
                                 .mountpoint = options->mountpoint,
                                 .readahead = choose_readahead(server),
                                 .all_through_server = must_see_reads(server),
                                 .mounter = broker_mounter(server->broker) };
    struct front *front;
    cleanup_free char *socket = control_socket_path(options->mountpoint, error);
    if (!socket) return -1;
    sigset_t signals = stop_signals();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (control_server_start(&server->control, socket, write_status, server, error) < 0)
        return error_prefix(error, "mount on '%s'", options->mountpoint);
    if (front_mount(&front, &server->node, server->devices, (uint32_t)server->device_count, &how,
                    error) < 0)
        return -1;
    pthread_mutex_lock(&server->status_lock);
    server->front = front;
    pthread_mutex_unlock(&server->status_lock);
    catch_signals(front);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    return 0;
}

/* In fresh memory. */
static char *directory_of(const char *absolute)
{
    const char *slash = strrchr(absolute, '/');
    return slash == absolute ? strdup("/") : strndup(absolute, (size_t)(slash - absolute));
}

/* fill_options */
static void read_ahead_much(void *context)
{
    struct server *server = context;
    if (!server->options->record) front_set_readahead(server->front, READAHEAD_MUCH);
}

static int start_fill(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    struct fill_options fill = { .mode = options->fill,
                                 .bytes_per_second = options->fill_rate,
                                 .force = options->force,
                                 .node = &server->node,
                                 .cache = server->cache,
                                 .path = server->path,
                                 .devices = server->devices,
                                 .client = server->client,
                                 .complete = read_ahead_much,
                                 .context = server };
    struct fill *started;
    if (fill_start(&started, &fill, error) < 0) return -1;
    pthread_mutex_lock(&server->status_lock);
    server->fill = started;
    pthread_mutex_unlock(&server->status_lock);
    return 0;
}

/* Before there is another thread, and before the first byte comes from outside. */
static int give_up_privileges(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    cleanup_free char *run_directory = control_run_directory(error);
    if (!run_directory || directory_make(options->cache, 0700, error) < 0 ||
        broker_start(&server->broker, options->mountpoint, options->allow_suid,
                     options->allow_devices, error) < 0)
        return -1;
    cleanup_free char *record_directory = NULL;
    if (options->record && !(record_directory = directory_of(options->record)))
        return error_set_memory(error);
    const char *const writable[] = { options->cache, run_directory, record_directory };
    confine_process(writable, record_directory ? 3 : 2, &server->confinement);
    return 0;
}

/* node_image_options. What the mount needs is said before the first part is looked for in the
 * cache, so that it is not evicted meanwhile. */
static void prepare_mount(void *context, const struct node_image *node)
{
    struct server *server = context;
    node_cache_declare(server->cache, node, server->options->mountpoint);
    if (server->profile) profile_player_prepare(server->profile, node);
}

static int load_image(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    struct node_image_options image = { .reference = options->reference,
                                        .platform = options->platform,
                                        .pinned = options->pinned_index,
                                        .least_trust = options->least_trust,
                                        .force = options->force,
                                        .artifact_known = prepare_mount,
                                        .context = server };
    if (!options->no_profile && profile_player_new(&server->profile, server->client, server->cache,
                                                   options->prefetch_limit, error) < 0)
        return -1;
    return node_image_load(&server->node, server->client, server->cache, &image, error);
}

static int start(struct server *server, struct error **error)
{
    const struct server_options *options = server->options;
    if (give_up_privileges(server, error) < 0) return -1;
    struct registry_options registry = { .plain_http = options->plain_http,
                                         .hosts_directory = options->hosts_directory,
                                         .credentials = broker_credentials,
                                         .credentials_context = server->broker };
    struct data_path_options path = { .read_timeout_ms = options->read_timeout_seconds * 1000,
                                      .neighbours = true };
    server->client = registry_client_new(&registry, error);
    if (!server->client ||
        node_cache_open(&server->cache, options->cache, &options->cache_limits, error) < 0 ||
        load_image(server, error) < 0)
        return -1;
    server->loaded = true;
    if (data_path_new(&server->path, server->client, server->cache, &path, error) < 0 ||
        open_devices(server, error) < 0)
        return -1;
    if (options->record && record_file_start(&server->record, options->record, &server->node,
                                             server->path, server->devices, error) < 0)
        return -1;
    if (mount_tree(server, error) < 0) return -1;
    if (server->profile)
        profile_player_play(server->profile, &server->node, server->path, server->devices);
    return options->fill == FILL_OFF ? 0 : start_fill(server, error);
}

/* In the order that fuse/rootfs.h asks for; those who wait for the end are told last. */
static void stop(struct server *server)
{
    pthread_mutex_lock(&server->status_lock);
    server->stopping = true;
    pthread_mutex_unlock(&server->status_lock);
    fill_stop(server->fill);
    profile_player_end(server->profile);
    record_file_end(server->record);
    for (size_t i = 0; i < server->device_count; i++)
        layer_device_close(server->devices[i]);
    free(server->devices);
    front_free(server->front);
    control_server_stop(server->control);
    if (server->path) data_path_free(server->path);
    if (server->loaded) node_image_free(&server->node);
    registry_client_free(server->client);
    profile_player_free(server->profile);
    if (server->cache) cache_free(server->cache);
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
    if (call->ready(call->context) < 0) front_stop(call->server->front);
}

int server_run(const struct server_options *options, server_ready *ready, void *context,
               struct error **error)
{
    struct server server = { .options = options,
                             .started = time(NULL),
                             .status_lock = PTHREAD_MUTEX_INITIALIZER };
    struct ready_call call = { &server, ready, context };
    bound_heap();
    int result = start(&server, error);
    if (result == 0) result = front_serve(server.front, tell_ready, &call, error);
    catch_signals(NULL);
    stop(&server);
    return result;
}
