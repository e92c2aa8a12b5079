/* Where the settings of registries are on this machine. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/hosts-internal.h"

#define FILE_LIMIT        (256u << 10)
#define AUTHORITIES_LIMIT (8u << 20) /* the bundle of a whole system is not a tenth of it */

/* ---- the list ---- */

struct host_settings *host_list_add(struct host_list *list, struct error **error)
{
    if (list->count == HOSTS_LIMIT) {
        error_set(error, ERROR_INVALID, "more than %d hosts", HOSTS_LIMIT);
        return NULL;
    }
    struct host_settings *longer = reallocarray(list->hosts, list->count + 1, sizeof *longer);
    if (!longer) {
        error_set_memory(error);
        return NULL;
    }
    list->hosts = longer;
    longer[list->count] = (struct host_settings){ .capabilities = HOST_EVERYTHING };
    return &longer[list->count++];
}

void host_settings_free(struct host_settings *host)
{
    free(host->api);
    buffer_free(&host->authorities);
    free(host->client_certificate);
    free(host->client_key);
    for (size_t i = 0; i < host->header_count; i++)
        secret_free(host->headers[i]);
    free(host->headers);
    *host = (struct host_settings){ 0 };
}

void host_list_free(struct host_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        host_settings_free(&list->hosts[i]);
    free(list->hosts);
    *list = (struct host_list){ 0 };
}

int host_settings_trust(struct host_settings *host, const char *path, struct error **error)
{
    host->tls_configured = true;
    size_t before = host->authorities.length;
    if (file_read(path, AUTHORITIES_LIMIT - before, &host->authorities, error) < 0) return -1;
    size_t length = host->authorities.length - before;
    const uint8_t *text = host->authorities.data + before;
    if (!memmem(text, length, "-----BEGIN ", 11))
        return error_set(error, ERROR_INVALID, "'%s' holds no PEM certificate", path);
    /* Between two files that do not end their last line. */
    return buffer_append_u8(&host->authorities, '\n') < 0 ? error_set_memory(error) : 0;
}

int host_settings_identify(struct host_settings *host, char *certificate, char *key,
                           struct error **error)
{
    cleanup_free char *own_certificate = certificate, *own_key = key;
    host->tls_configured = true;
    if (host->client_certificate) {
        log_warning("'%s': of several client certificates the first is used", certificate);
        return 0;
    }
    const char *const files[] = { certificate, key };
    for (size_t i = 0; i < 2; i++) {
        struct stat found;
        if (!files[i]) continue;
        if (access(files[i], R_OK) < 0 || stat(files[i], &found) < 0)
            return error_set_errno(error, errno, "client certificate '%s'", files[i]);
        /* Whoever reads it must not have to wait. */
        if (!S_ISREG(found.st_mode))
            return error_set(error, ERROR_INVALID, "client certificate '%s' is no plain file",
                             files[i]);
    }
    host->client_certificate = take_pointer(&own_certificate);
    host->client_key = take_pointer(&own_key);
    return 0;
}

/* ---- docker's files ---- */

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), size = strlen(end);
    return length > size && strcmp(name + length - size, end) == 0;
}

static int is_certificate(const struct dirent *entry)
{
    return ends_with(entry->d_name, ".crt") || ends_with(entry->d_name, ".cert");
}

static int use_certificate(const char *directory, const char *name, struct host_settings *host,
                           struct error **error)
{
    cleanup_free char *path = format_text("%s/%s", directory, name);
    if (!path) return error_set_memory(error);
    if (ends_with(name, ".crt")) return host_settings_trust(host, path, error);
    size_t stem = strlen(path) - strlen(".cert");
    char *key = format_text("%.*s.key", (int)stem, path);
    if (!key) return error_set_memory(error);
    if (access(key, F_OK) < 0) { /* then the certificate's file holds it */
        free(key);
        key = NULL;
    }
    return host_settings_identify(host, take_pointer(&path), key, error);
}

static int read_certificates(const char *directory, struct host_list *ret, struct error **error)
{
    struct dirent **entries = NULL;
    struct host_settings *host = host_list_add(ret, error);
    if (!host) return -1;
    int count = scandir(directory, &entries, is_certificate, alphasort), result = 0;
    if (count < 0) return error_set_errno(error, errno, "read directory '%s'", directory);
    for (int i = 0; i < count; i++) {
        if (result == 0) result = use_certificate(directory, entries[i]->d_name, host, error);
        free(entries[i]);
    }
    free(entries);
    return result;
}

/* ---- the directory of a registry ---- */

static int read_directory(const char *directory, struct host_list *ret, struct error **error)
{
    cleanup_free char *path = format_text("%s/hosts.toml", directory);
    cleanup_buffer struct buffer text = { 0 };
    struct error *failure = NULL;
    if (!path) return error_set_memory(error);
    if (file_read(path, FILE_LIMIT, &text, &failure) < 0) {
        if (error_kind_of(failure) != ERROR_NOT_FOUND) return error_move(error, failure);
        error_free(failure);
    }
    if (text.length == 0) return read_certificates(directory, ret, error);
    log_info("'%s' says which hosts are asked", path);
    return hosts_file_parse(directory, path, &text, ret, error);
}

/* 1: read, 0: there is no such directory. `name` is taken over; NULL: out of memory. */
static int try_directory(const char *root, char *name, struct host_list *ret, struct error **error)
{
    cleanup_free char *own = name;
    cleanup_free char *directory = own ? format_text("%s/%s", root, own) : NULL;
    struct stat found;
    if (!directory) return error_set_memory(error);
    if (stat(directory, &found) < 0) {
        if (errno == ENOENT || errno == ENOTDIR) return 0;
        return error_set_errno(error, errno, "directory '%s'", directory);
    }
    return read_directory(directory, ret, error) < 0 ? -1 : 1;
}

/* containerd's names: "host_5000_" (for systems whose names have no colon), "host:5000",
 * "_default". */
static int try_root(const char *root, const char *registry, struct host_list *ret,
                    struct error **error)
{
    const char *colon = strrchr(registry, ':');
    int found = 0;
    if (colon && colon > registry)
        found = try_directory(root,
                              format_text("%.*s_%s_", (int)(colon - registry), registry, colon + 1),
                              ret, error);
    if (found == 0) found = try_directory(root, strdup(registry), ret, error);
    if (found == 0) found = try_directory(root, strdup("_default"), ret, error);
    return found;
}

int hosts_find(char *const *directories, const char *registry, struct host_list *ret,
               struct error **error)
{
    int found = 0;
    *ret = (struct host_list){ 0 };
    for (; *directories && found == 0; directories++)
        found = try_root(*directories, registry, ret, error);
    if (found == 0) found = host_list_add(ret, error) ? 1 : -1;
    if (found > 0) return 0;
    host_list_free(ret);
    return -1;
}

/* ---- where nobody names a directory ---- */

/* $XDG_CONFIG_HOME, or what stands for it, in fresh memory; NULL: there is none. */
static char *user_configuration(void)
{
    const char *own = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (geteuid() == 0) return NULL;
    if (own && own[0] == '/') return strdup(own);
    return home && home[0] == '/' ? format_text("%s/.config", home) : NULL;
}

char **hosts_default_directories(struct error **error)
{
    cleanup_free char *user = user_configuration();
    char **directories = calloc(5, sizeof *directories);
    size_t count = 0;
    bool complete = directories != NULL;
    if (directories && user) {
        directories[count++] = format_text("%s/containerd/certs.d", user);
        directories[count++] = format_text("%s/docker/certs.d", user);
    }
    if (directories) {
        directories[count++] = strdup("/etc/containerd/certs.d");
        directories[count++] = strdup("/etc/docker/certs.d");
    }
    for (size_t i = 0; i < count; i++)
        complete &= directories[i] != NULL;
    if (complete) return directories;
    for (size_t i = 0; i < count; i++)
        free(directories[i]);
    free(directories);
    error_set_memory(error);
    return NULL;
}

char **hosts_one_directory(const char *directory, struct error **error)
{
    char **directories = calloc(2, sizeof *directories);
    if (!directories) {
        error_set_memory(error);
        return NULL;
    }
    directories[0] = realpath(directory, NULL);
    if (directories[0]) return directories;
    error_set_errno(error, errno, "directory of hosts '%s'", directory);
    free(directories);
    return NULL;
}

void hosts_directories_free(char **directories)
{
    for (char **each = directories; each && *each; each++)
        free(*each);
    free(directories);
}
