#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "snapshotter/daemon-internal.h"

static json_int_t resident_bytes(json_int_t process)
{
    cleanup_buffer struct buffer text = { 0 };
    cleanup_free char *path = format_text("/proc/%lld/statm", (long long)process);
    if (!path || file_read(path, 4096, &text, NULL) < 0 || buffer_append_u8(&text, 0) < 0) return 0;
    /* The first number is the size of its address space. */
    const char *second = strchr((const char *)text.data, ' ');
    uint64_t pages = second ? strtoull(second, NULL, 10) : 0;
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

static json_t *process_part(const struct daemon *daemon)
{
    cleanup_free char *problem = metrics_listener_problem(daemon->metrics);
    return json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:s*}", "version", SLUICE_VERSION,
                     "pid", (json_int_t)getpid(), "started", (json_int_t)daemon->started,
                     "uptime_seconds", (json_int_t)(time(NULL) - daemon->started), "address",
                     daemon->config->address, "root", daemon->config->root, "resident_bytes",
                     resident_bytes(getpid()), "open_files", open_files(), "metrics_problem",
                     problem);
}

/* A new reference; NULL: there is none. */
static json_t *node_status(struct daemon *daemon, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    if (node_client_status(daemon->node, &text, error) < 0) return NULL;
    return json_read_object(text.data, text.length, "the node's status", error);
}

static json_t *server_part(json_t *node)
{
    json_t *server = json_object_get(node, "server");
    json_t *part = json_is_object(server) ? json_copy(server) : json_object();
    json_int_t process = json_integer_value(json_object_get(server, "pid"));
    json_object_set(part, "starts", json_object_get(node, "servers_started"));
    json_object_set(part, "hangs", json_object_get(node, "servers_hung"));
    json_object_set(part, "reason", json_object_get(node, "server_reason"));
    json_object_set_new(part, "running", json_boolean(json_is_object(server)));
    if (process) json_object_set_new(part, "resident_bytes", json_integer(resident_bytes(process)));
    return part;
}

/* As its server counts; nothing without one. */
static json_t *cache_part(const json_t *node)
{
    const json_t *server = json_object_get(node, "server");
    return json_pack("{s:O*, s:O*, s:O*}", "directory", json_object_get(server, "cache"), "on_disk",
                     json_object_get(server, "cache_bytes"), "limit",
                     json_object_get(server, "cache_limit"));
}

json_t *daemon_status(struct daemon *daemon)
{
    cleanup_json json_t *node = node_status(daemon, NULL);
    cleanup_json json_t *status = json_object();
    if (!status || !node || json_object_set_new(status, "daemon", process_part(daemon)) < 0 ||
        json_object_set_new(status, "server", server_part(node)) < 0 ||
        json_object_set_new(status, "cache", cache_part(node)) < 0 ||
        json_object_set_new(status, "calls", snapshots_service_calls(&daemon->service)) < 0 ||
        lazy_images_status(daemon->lazy, json_object_get(node, "images"), status) < 0)
        return NULL;
    return json_incref(status);
}

char *daemon_unhealthy(struct daemon *daemon)
{
    cleanup_error struct error *error = NULL;
    cleanup_json json_t *node = node_status(daemon, &error);
    if (!node) return format_text("the server of images cannot be asked: %s", error_message(error));
    if (json_is_object(json_object_get(node, "server"))) return NULL;
    const char *reason = json_optional_text(node, "server_reason");
    return format_text("the server of images does not run: %s", reason ? reason : "out of memory");
}
