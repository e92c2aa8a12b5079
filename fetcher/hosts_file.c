/* hosts.toml. Keys that are not known here are for others, and passed over. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/toml.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/url-internal.h"

#define HEADERS_LIMIT 64

/* What a host's table is read with. */
struct reader {
    const char *directory; /* relative paths start there */
    struct host_settings *host;
};

static int wrong(struct error **error, const char *key, const char *expected)
{
    return error_set(error, ERROR_INVALID, "\"%s\" must be %s", key, expected);
}

static char *absolute(const struct reader *reader, const char *path)
{
    return path[0] == '/' ? strdup(path) : format_text("%s/%s", reader->directory, path);
}

static int read_capabilities(const struct reader *reader, const json_t *value, struct error **error)
{
    static const char expected[] = "a list of \"pull\", \"resolve\" and \"push\"";
    static const struct {
        const char *name;
        enum host_capability capability;
    } known[] = { { "pull", HOST_PULL }, { "resolve", HOST_RESOLVE }, { "push", HOST_PUSH } };
    if (!json_is_array(value)) return wrong(error, "capabilities", expected);
    if (json_array_size(value) == 0) return 0;
    reader->host->capabilities = 0;
    size_t i;
    const json_t *each;
    json_array_foreach(value, i, each)
    {
        const char *name = json_string_value(each);
        unsigned found = 0;
        for (size_t k = 0; name && k < sizeof known / sizeof *known; k++)
            if (strcasecmp(name, known[k].name) == 0) found = known[k].capability;
        if (!found) return wrong(error, "capabilities", expected);
        reader->host->capabilities |= found;
    }
    return 0;
}

static int trust(const struct reader *reader, const json_t *value, struct error **error)
{
    const char *name = json_string_value(value);
    if (!name) return wrong(error, "ca", "a file or a list of files");
    cleanup_free char *path = absolute(reader, name);
    if (!path) return error_set_memory(error);
    return host_settings_trust(reader->host, path, error);
}

static int read_authorities(const struct reader *reader, const json_t *value, struct error **error)
{
    if (!json_is_array(value)) return trust(reader, value, error);
    size_t i;
    const json_t *each;
    json_array_foreach(value, i, each)
    {
        if (trust(reader, each, error) < 0) return -1;
    }
    return 0;
}

static int identify(const struct reader *reader, const char *certificate, const char *key,
                    struct error **error)
{
    if (!certificate)
        return wrong(error, "client", "a file, a list of files, or a list of [certificate, key]");
    char *certificate_path = absolute(reader, certificate);
    char *key_path = key && *key ? absolute(reader, key) : NULL;
    if (!certificate_path || (key && *key && !key_path)) {
        free(certificate_path);
        free(key_path);
        return error_set_memory(error);
    }
    return host_settings_identify(reader->host, certificate_path, key_path, error);
}

static int read_client(const struct reader *reader, const json_t *value, struct error **error)
{
    if (!json_is_array(value)) return identify(reader, json_string_value(value), NULL, error);
    size_t i;
    const json_t *each;
    json_array_foreach(value, i, each)
    {
        const char *certificate = json_string_value(each), *key = NULL;
        if (json_is_array(each) && json_array_size(each) == 2) {
            certificate = json_string_value(json_array_get(each, 0));
            key = json_string_value(json_array_get(each, 1));
            if (!key) certificate = NULL;
        }
        if (identify(reader, certificate, key, error) < 0) return -1;
    }
    return 0;
}

/* RFC 9110 section 5: nothing may end the line, or be taken for another header. */
static bool header_is_valid(const char *name, const char *value)
{
    size_t length = strspn(name, "!#$%&'*+-.^_`|~0123456789"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    if (length == 0 || name[length] || !value || !*value) return false;
    for (; *value; value++)
        if (((unsigned char)*value < ' ' && *value != '\t') || *value == 0x7f) return false;
    return true;
}

static int add_header(const struct reader *reader, const char *name, const json_t *value,
                      struct error **error)
{
    struct host_settings *host = reader->host;
    const char *text = json_string_value(value);
    if (!header_is_valid(name, text))
        return error_set(error, ERROR_INVALID, "header '%s': no valid name and text", name);
    if (host->header_count == HEADERS_LIMIT)
        return error_set(error, ERROR_INVALID, "more than %d headers", HEADERS_LIMIT);
    char **longer = reallocarray(host->headers, host->header_count + 1, sizeof *longer);
    if (longer) host->headers = longer;
    char *line = longer ? format_text("%s: %s", name, text) : NULL;
    if (!line) return error_set_memory(error);
    host->headers[host->header_count++] = line;
    return 0;
}

static int read_headers(const struct reader *reader, const json_t *value, struct error **error)
{
    const char *name;
    json_t *given;
    if (!json_is_object(value)) return wrong(error, "header", "a table");
    json_object_foreach((json_t *)value, name, given)
    {
        size_t count = json_is_array(given) ? json_array_size(given) : 1;
        for (size_t i = 0; i < count; i++) {
            const json_t *each = json_is_array(given) ? json_array_get(given, i) : given;
            if (add_header(reader, name, each, error) < 0) return -1;
        }
    }
    return 0;
}

static int read_flag(const json_t *table, const char *key, bool *ret, struct error **error)
{
    const json_t *value = json_object_get(table, key);
    *ret = json_is_true(value);
    return !value || json_is_boolean(value) ? 0 : wrong(error, key, "true or false");
}

/* Where the API is: below "/v2" unless the path is to be taken as it is. */
static int read_address(struct host_settings *host, const char *address, bool override_path,
                        struct error **error)
{
    cleanup_free char *whole =
        strstr(address, "://") ? strdup(address) : format_text("https://%s", address);
    if (!whole) return error_set_memory(error);
    cleanup_free char *url = url_resolve("http://localhost/", whole, error);
    if (!url) return -1;
    if (strpbrk(url, "?#")) return error_set(error, ERROR_INVALID, "it has a query");
    size_t length = strlen(url);
    while (length > 0 && url[length - 1] == '/')
        url[--length] = '\0';
    bool ends = length > 3 && strcmp(url + length - 3, "/v2") == 0;
    host->api = format_text("%s%s", url, ends || override_path ? "" : "/v2");
    return host->api ? 0 : error_set_memory(error);
}

/* One host's table; `address` "" is the registry itself. */
static int read_host(const char *directory, const char *address, const json_t *table,
                     struct host_settings *host, struct error **error)
{
    static const struct {
        const char *key;
        int (*read)(const struct reader *reader, const json_t *value, struct error **error);
    } readers[] = { { "capabilities", read_capabilities },
                    { "ca", read_authorities },
                    { "client", read_client },
                    { "header", read_headers } };
    struct reader reader = { directory, host };
    bool override_path;
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        const json_t *value = json_object_get(table, readers[i].key);
        if (value && readers[i].read(&reader, value, error) < 0) return -1;
    }
    if (read_flag(table, "skip_verify", &host->skip_verify, error) < 0 ||
        read_flag(table, "override_path", &override_path, error) < 0)
        return -1;
    host->tls_configured |= json_object_get(table, "skip_verify") != NULL;
    if (*address) return read_address(host, address, override_path, error);
    host->capabilities = HOST_EVERYTHING;
    return 0;
}

/* An address in messages: what somebody wrote before an '@' may be a password. */
static const char *without_user(const char *address)
{
    const char *at = strrchr(address, '@');
    return at ? at + 1 : address;
}

static int read_mirrors(const char *directory, const json_t *mirrors, struct host_list *ret,
                        struct error **error)
{
    const char *address;
    json_t *table;
    if (!json_is_object(mirrors)) return wrong(error, "host", "tables [host.\"URL\"]");
    json_object_foreach((json_t *)mirrors, address, table)
    {
        if (!json_is_object(table) || !*address)
            return wrong(error, "host", "tables [host.\"URL\"]");
        struct host_settings *host = host_list_add(ret, error);
        if (!host) return -1;
        if (read_host(directory, address, table, host, error) < 0)
            return error_prefix(error, "host \"%s\"", without_user(address));
    }
    return 0;
}

/* The mirrors first, then the server, for which the file's own keys stand. */
static int read_document(const char *directory, const json_t *document, struct host_list *ret,
                         struct error **error)
{
    const json_t *mirrors = json_object_get(document, "host");
    const json_t *server = json_object_get(document, "server");
    if (mirrors && read_mirrors(directory, mirrors, ret, error) < 0) return -1;
    if (server && !json_is_string(server)) return wrong(error, "server", "a URL");
    struct host_settings *host = host_list_add(ret, error);
    if (!host) return -1;
    const char *address = server ? json_string_value(server) : "";
    if (read_host(directory, address, document, host, error) == 0) return 0;
    return *address ? error_prefix(error, "server \"%s\"", without_user(address)) : -1;
}

int hosts_file_parse(const char *directory, const char *path, const struct buffer *text,
                     struct host_list *ret, struct error **error)
{
    unsigned line;
    char message[TOML_MESSAGE_SIZE];
    cleanup_free char *json = toml_as_json((const char *)text->data, text->length, &line, message);
    if (!json) {
        if (line == 0) return error_set_memory(error);
        return error_set(error, ERROR_INVALID, "'%s' line %u: %s", path, line, message);
    }
    cleanup_json json_t *document = json_read_object(json, strlen(json), "it", error);
    if (document && read_document(directory, document, ret, error) == 0) return 0;
    return error_prefix(error, "'%s'", path);
}
