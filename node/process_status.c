#include "node/process_status.h"

#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"

static void add_size(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
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
    add_size(root, "oldest_wait_ms", counters.oldest_wait_ms);
    add_size(root, "chunks_damaged", counters.chunks_damaged);
    add_size(root, "store_errors", counters.store_errors);
    add_size(root, "errors", counters.read_errors);
    uint64_t age_ms;
    cleanup_free char *last_error = data_path_last_error(path, &age_ms);
    json_object_set_new(root, "last_error", last_error ? json_any_text(last_error) : json_null());
    if (last_error) add_size(root, "last_error_seconds_ago", age_ms / 1000);
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

json_t *process_status(const struct node *node, const struct confinement *confinement,
                       time_t started)
{
    json_t *root = json_object();
    if (!root) return NULL;
    json_object_set_new(root, "cache", json_any_text(cache_directory(node->cache)));
    add_size(root, "cache_bytes", cache_usage(node->cache));
    add_size(root, "cache_limit", cache_get_limits(node->cache).size);
    json_object_set_new(root, "confinement", confinement_status(confinement));
    add_size(root, "pid", (uint64_t)getpid());
    add_size(root, "uptime_seconds", (uint64_t)(time(NULL) - started));
    add_size(root, "layers_open", shared_layers_count(node->layers));
    add_counters(root, node->path);
    return root;
}
