#include "snapshotter/config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/duration.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/toml.h"
#include "snapshotter/metrics.h"

#define FILE_LENGTH_MAX (1u << 20)
/* The kernel calls a task hung that has waited for 120 s. */
#define READ_TIMEOUT_MAX_MS 110000u
#define WATCHDOG_MAX_MS     600000u

/* ---- values ---- */

typedef int read_value(void *to, const json_t *value, struct error **error);

static int wrong(struct error **error, const char *expected)
{
    return error_set(error, ERROR_INVALID, "must be %s", expected);
}

static int read_text(void *to, const json_t *value, struct error **error)
{
    char **text = to;
    const char *given = json_string_value(value);
    if (!given) return wrong(error, "a text");
    free(*text);
    *text = *given ? strdup(given) : NULL;
    return *given && !*text ? error_set_memory(error) : 0;
}

static int read_path(void *to, const json_t *value, struct error **error)
{
    const char *given = json_string_value(value);
    if (!given || (*given && *given != '/')) return wrong(error, "an absolute path");
    return read_text(to, value, error);
}

static int read_needed_path(void *to, const json_t *value, struct error **error)
{
    const char *given = json_string_value(value);
    if (!given || *given != '/') return wrong(error, "an absolute path");
    return read_text(to, value, error);
}

/* sockaddr_un.sun_path, with room for the '~' of the name under which it is made. */
#define SOCKET_PATH_MAX 106

static int read_socket(void *to, const json_t *value, struct error **error)
{
    const char *given = json_string_value(value);
    if (!given || *given != '/' || !given[1] || strlen(given) > SOCKET_PATH_MAX)
        return wrong(error, "an absolute path of less than 107 bytes");
    return read_text(to, value, error);
}

static int read_optional_socket(void *to, const json_t *value, struct error **error)
{
    const char *given = json_string_value(value);
    return given && !*given ? read_text(to, value, error) : read_socket(to, value, error);
}

static int read_listener(void *to, const json_t *value, struct error **error)
{
    const char *given = json_string_value(value);
    if (!given) return wrong(error, "an address, as \"127.0.0.1:9780\"");
    if (*given && metrics_address_check(given, error) < 0) return -1;
    return read_text(to, value, error);
}

static void free_texts(struct config_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++)
        free(texts->entries[i]);
    free(texts->entries);
    *texts = (struct config_texts){ 0 };
}

/* They are joined with commas when they are used. */
static int read_mount_options(void *to, const json_t *value, struct error **error)
{
    struct config_texts *texts = to;
    free_texts(texts);
    texts->entries = calloc(json_array_size(value) + 1, sizeof *texts->entries);
    if (!texts->entries) return error_set_memory(error);
    for (; texts->count < json_array_size(value); texts->count++) {
        const char *text = json_string_value(json_array_get(value, texts->count));
        if (!text || !*text || strchr(text, ',')) break;
        texts->entries[texts->count] = strdup(text);
        if (!texts->entries[texts->count]) return error_set_memory(error);
    }
    if (json_is_array(value) && texts->count == json_array_size(value)) return 0;
    return wrong(error, "a list of mount options, as [\"volatile\"]");
}

static int read_flag(void *to, const json_t *value, struct error **error)
{
    if (!json_is_boolean(value)) return wrong(error, "true or false");
    *(bool *)to = json_is_true(value);
    return 0;
}

static int read_bytes(void *to, const json_t *value, struct error **error)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *(uint64_t *)to = (uint64_t)json_integer_value(value);
        return 0;
    }
    if (!json_is_string(value)) return wrong(error, "a size, as \"20GiB\"");
    return parse_size(json_string_value(value), to, error);
}

static int read_duration(void *to, const json_t *value, struct error **error)
{
    const char *text = json_string_value(value);
    uint64_t duration;
    if (!text || duration_parse(text, &duration, NULL) < 0 || duration == DURATION_MAX_MS)
        return wrong(error, "a duration, as \"500ms\", \"5s\", \"10m\" or \"12h\"");
    *(uint64_t *)to = duration;
    return 0;
}

static int read_timeout(void *to, const json_t *value, struct error **error)
{
    uint64_t timeout = 0;
    if (read_duration(&timeout, value, error) < 0) return -1;
    if (timeout < 1000 || timeout > READ_TIMEOUT_MAX_MS)
        return wrong(error, "from \"1s\" to \"110s\"");
    *(uint64_t *)to = timeout;
    return 0;
}

static int read_watchdog(void *to, const json_t *value, struct error **error)
{
    uint64_t time = 0;
    if (read_duration(&time, value, error) < 0) return -1;
    if (time != 0 && (time < 1000 || time > WATCHDOG_MAX_MS))
        return wrong(error, "\"0s\", or from \"1s\" to \"10m\"");
    *(uint64_t *)to = time;
    return 0;
}

static int read_cache_size(void *to, const json_t *value, struct error **error)
{
    if (!json_is_string(value)) return wrong(error, "a size, as \"20GiB\"");
    return node_cache_parse_size(to, json_string_value(value), error);
}

static int read_cache_reserve(void *to, const json_t *value, struct error **error)
{
    if (!json_is_string(value)) return wrong(error, "a size, as \"20GiB\", or \"5%\"");
    return node_cache_parse_reserve(to, json_string_value(value), error);
}

static int read_trust(void *to, const json_t *value, struct error **error)
{
    if (!json_is_string(value)) return wrong(error, "\"referrer\" or \"pinned\"");
    return index_trust_parse(to, json_string_value(value), error);
}

static int read_front(void *to, const json_t *value, struct error **error)
{
    if (!json_is_string(value)) return wrong(error, "\"auto\", \"erofs\" or \"fuse\"");
    return front_parse(to, json_string_value(value), error);
}

static int read_fill(void *to, const json_t *value, struct error **error)
{
    if (!json_is_string(value)) return wrong(error, "\"off\", \"idle\" or \"now\"");
    return fill_mode_parse(to, json_string_value(value), error);
}

static int find_name(const char *const *names, size_t count, const char *text)
{
    for (size_t i = 0; text && i < count; i++)
        if (strcmp(text, names[i]) == 0) return (int)i;
    return -1;
}

int config_log_level(const char *text, enum log_level *ret, struct error **error)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    int found = find_name(names, sizeof names / sizeof *names, text);
    if (found < 0)
        return error_set(error, ERROR_INVALID,
                         "the log's level must be \"error\", \"warning\", \"info\" or \"debug\"");
    *ret = (enum log_level)found;
    return 0;
}

static int read_level(void *to, const json_t *value, struct error **error)
{
    return config_log_level(json_string_value(value), to, error);
}

static int read_format(void *to, const json_t *value, struct error **error)
{
    static const char *const names[] = { "text", "json" };
    int found = find_name(names, sizeof names / sizeof *names, json_string_value(value));
    if (found < 0) return wrong(error, "\"text\" or \"json\"");
    *(enum log_format *)to = (enum log_format)found;
    return 0;
}

/* ---- keys ---- */

struct key {
    const char *table, *name; /* table "": the top */
    read_value *read;
    size_t offset; /* in struct config */
};

#define KEY(table, name, read, member)                     \
    {                                                      \
        table, name, read, offsetof(struct config, member) \
    }

static const struct key keys[] = {
    KEY("", "root", read_needed_path, root),
    KEY("", "address", read_socket, address),
    KEY("log", "level", read_level, log.level),
    KEY("log", "format", read_format, log.format),
    KEY("snapshots", "remap_ids", read_flag, snapshots.remap_ids),
    KEY("snapshots", "mount_options", read_mount_options, snapshots.mount_options),
    KEY("cache", "directory", read_path, cache.directory),
    KEY("cache", "size", read_cache_size, cache.limits),
    KEY("cache", "reserve", read_cache_reserve, cache.limits),
    KEY("registry", "config_path", read_path, registry.hosts_directory),
    KEY("lazy", "enabled", read_flag, lazy.enabled),
    KEY("lazy", "trust", read_trust, lazy.trust),
    KEY("lazy", "budget", read_duration, lazy.budget_ms),
    KEY("lazy", "retry_after", read_duration, lazy.retry_after_ms),
    KEY("lazy", "front", read_front, lazy.front),
    KEY("lazy", "profile", read_flag, lazy.profile),
    KEY("lazy", "prefetch_limit", read_bytes, lazy.prefetch_limit),
    KEY("lazy", "fill", read_fill, lazy.fill),
    KEY("lazy", "fill_rate", read_bytes, lazy.fill_rate),
    KEY("lazy", "read_timeout", read_timeout, lazy.read_timeout_ms),
    KEY("server", "watchdog", read_watchdog, server.watchdog_ms),
    KEY("layer_store", "path", read_path, layer_store.path),
    KEY("holder", "socket", read_socket, holder.socket),
    KEY("credentials", "image_service", read_optional_socket, credentials.image_service),
    KEY("credentials", "containerd", read_socket, credentials.containerd),
    KEY("credentials", "provider_config", read_path, credentials.provider_config),
    KEY("credentials", "provider_directory", read_path, credentials.provider_directory),
    KEY("credentials", "keep", read_duration, credentials.keep_ms),
    KEY("metrics", "address", read_listener, metrics.address),
    KEY("metrics", "images", read_flag, metrics.images),
};

static int read_key(struct config *config, const char *table, const char *name, const json_t *value,
                    struct error **error)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct key *key = &keys[i];
        if (strcmp(key->table, table) == 0 && strcmp(key->name, name) == 0)
            return key->read((char *)config + key->offset, value, error);
    }
    return error_set(error, ERROR_INVALID, "there is no such key");
}

static bool is_table(const char *name)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (*name && strcmp(keys[i].table, name) == 0) return true;
    return false;
}

static int read_table(struct config *config, const char *table, json_t *values,
                      struct error **error)
{
    const char *name;
    json_t *value;
    json_object_foreach(values, name, value)
    {
        if (!*table && is_table(name)) {
            if (!json_is_object(value))
                return error_set(error, ERROR_INVALID, "%s: must be a table", name);
            if (read_table(config, name, value, error) < 0) return -1;
        } else if (read_key(config, table, name, value, error) < 0) {
            return error_prefix(error, "%s%s%s", table, *table ? "." : "", name);
        }
    }
    return 0;
}

static int read_file(struct config *config, const struct buffer *text, struct error **error)
{
    unsigned line;
    char message[TOML_MESSAGE_SIZE];
    cleanup_free char *json = toml_as_json((const char *)text->data, text->length, &line, message);
    if (!json) return error_set(error, ERROR_INVALID, "line %u: %s", line, message);
    cleanup_json json_t *root = json_read_object(json, strlen(json), "configuration", error);
    return root ? read_table(config, "", root, error) : -1;
}

/* ---- defaults ---- */

static int set_texts(struct config *config)
{
    config->root = strdup("/var/lib/sluice");
    config->address = strdup("/run/sluice/snapshotter.sock");
    config->holder.socket = strdup("/run/sluice/holder.sock");
    config->credentials.containerd = strdup("/run/containerd/containerd.sock");
    return config->root && config->address && config->holder.socket &&
                   config->credentials.containerd
               ? 0
               : -1;
}

static int set_defaults(struct config *config, struct error **error)
{
    *config = (struct config){ 0 };
    config->log.level = LOG_INFO;
    config->lazy.enabled = true;
    config->lazy.trust = TRUST_REFERRER;
    config->lazy.budget_ms = 5000;
    config->lazy.retry_after_ms = 600000;
    config->lazy.front = FRONT_AUTO;
    config->lazy.profile = true;
    config->lazy.fill = FILL_IDLE;
    config->lazy.read_timeout_ms = 60000;
    config->server.watchdog_ms = 10000;
    config->metrics.images = true;
    return set_texts(config) < 0 ? error_set_memory(error) : 0;
}

int config_load(struct config *ret, const char *path, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    struct error *reason = NULL;
    const char *from = path ? path : CONFIG_FILE;
    int result = set_defaults(ret, error);
    if (result == 0 && file_read(from, FILE_LENGTH_MAX, &text, &reason) < 0) {
        if (!path && error_kind_of(reason) == ERROR_NOT_FOUND) {
            error_free(reason);
            return 0;
        }
        result = error_move(error, reason);
    } else if (result == 0 && (result = read_file(ret, &text, error)) < 0) {
        error_prefix(error, "configuration '%s'", from);
    }
    if (result < 0) config_free(ret);
    return result;
}

void config_free(struct config *config)
{
    free(config->root);
    free(config->address);
    free_texts(&config->snapshots.mount_options);
    free(config->cache.directory);
    free(config->registry.hosts_directory);
    free(config->layer_store.path);
    free(config->holder.socket);
    free(config->credentials.image_service);
    free(config->credentials.containerd);
    free(config->credentials.provider_config);
    free(config->credentials.provider_directory);
    free(config->metrics.address);
    *config = (struct config){ 0 };
}
