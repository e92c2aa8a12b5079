#include "fetcher/docker_config-internal.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/quirks-internal.h"

#define CONFIG_LIMIT (1u << 20)
#define AUTH_LIMIT   (64u << 10)

struct docker_config {
    json_t *root;
};

char *docker_config_path(void)
{
    const char *directory = getenv("DOCKER_CONFIG");
    if (directory && *directory) return format_text("%s/config.json", directory);
    const char *home = getenv("HOME");
    return home && *home ? format_text("%s/.docker/config.json", home) : NULL;
}

char *podman_config_path(void)
{
    const char *named = getenv("REGISTRY_AUTH_FILE"), *runtime = getenv("XDG_RUNTIME_DIR");
    if (named && *named) return strdup(named);
    if (runtime && *runtime) return format_text("%s/containers/auth.json", runtime);
    return format_text("/run/containers/%u/auth.json", (unsigned)geteuid());
}

struct docker_config *docker_config_read(const char *path, struct error **error)
{
    cleanup_secret struct buffer text = { 0 };
    if (file_read(path, CONFIG_LIMIT, &text, error) < 0) return NULL;
    json_error_t reason;
    json_t *root = json_loadb((const char *)text.data, text.length, 0, &reason);
    if (!json_is_object(root)) {
        /* jansson's text quotes the input, which holds secrets: the line must do. */
        error_set(error, ERROR_INVALID, "'%s' is not a JSON object (line %d)", path,
                  root ? 1 : reason.line);
        json_decref(root);
        return NULL;
    }
    struct docker_config *config = malloc(sizeof *config);
    if (!config) {
        json_decref(root);
        error_set_memory(error);
        return NULL;
    }
    config->root = root;
    return config;
}

void docker_config_free(struct docker_config *config)
{
    if (!config) return;
    json_decref(config->root);
    free(config);
}

/* Docker writes keys as hosts, and once wrote them as URLs ("https://host/v1/").
 * A longer path is somebody's namespace, not the registry. */
static bool key_names_registry(const char *key, const char *registry)
{
    static const char *const tails[] = { "", "/", "/v1", "/v1/", "/v2", "/v2/" };
    if (strncasecmp(key, "https://", 8) == 0)
        key += 8;
    else if (strncasecmp(key, "http://", 7) == 0)
        key += 7;
    size_t length = strlen(registry);
    if (strncasecmp(key, registry, length) != 0) return false;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (strcmp(key + length, tails[i]) == 0) return true;
    return false;
}

bool credentials_key_matches(const char *key, const char *registry)
{
    if (key_names_registry(key, registry)) return true;
    for (const char *const *alias = quirk_aliases(registry); *alias; alias++)
        if (key_names_registry(key, *alias)) return true;
    return false;
}

/* The value in `object` for `registry`: under docker's own key for it, else under
 * another spelling. */
static json_t *find_registry(json_t *object, const char *registry)
{
    json_t *found = json_object_get(object, quirk_credentials_key(registry));
    if (found) return found;
    const char *key;
    json_object_foreach(object, key, found)
    {
        if (credentials_key_matches(key, registry)) return found;
    }
    return NULL;
}

static const char *text_or_null(const json_t *value)
{
    const char *text = json_string_value(value);
    return text && *text ? text : NULL;
}

const char *docker_config_helper(const struct docker_config *config, const char *registry)
{
    json_t *helpers = json_object_get(config->root, "credHelpers");
    const char *own = text_or_null(find_registry(helpers, registry));
    return own ? own : text_or_null(json_object_get(config->root, "credsStore"));
}

int credentials_decode_auth(const char *auth, struct credentials *ret, struct error **error)
{
    size_t length = strlen(auth);
    if (length > AUTH_LIMIT || length % 4 != 0)
        return error_set(error, ERROR_INVALID, "its \"auth\" is not base64");
    cleanup_secret struct buffer decoded = { 0 };
    if (buffer_reserve(&decoded, length / 4 * 3 + 1) < 0) return error_set_memory(error);
    int count = EVP_DecodeBlock(decoded.data, (const unsigned char *)auth, (int)length);
    if (count < 0) return error_set(error, ERROR_INVALID, "its \"auth\" is not base64");
    /* The terminator also ends the zero bytes that stand for the padding. */
    decoded.data[count] = '\0';
    char *user = (char *)decoded.data, *colon = strchr(user, ':');
    if (!colon) return error_set(error, ERROR_INVALID, "its \"auth\" holds no user and password");
    *colon = '\0';
    ret->user = strdup(user);
    ret->password = strdup(colon + 1);
    if (!ret->user || !ret->password) return error_set_memory(error);
    return 1;
}

static int take_entry(const json_t *entry, struct credentials *ret, struct error **error)
{
    const char *token = text_or_null(json_object_get(entry, "identitytoken"));
    const char *auth = text_or_null(json_object_get(entry, "auth"));
    const char *user = text_or_null(json_object_get(entry, "username"));
    const char *password = text_or_null(json_object_get(entry, "password"));
    if (token) {
        ret->identity_token = strdup(token);
        return ret->identity_token ? 1 : error_set_memory(error);
    }
    if (auth) return credentials_decode_auth(auth, ret, error);
    if (!user || !password) return 0;
    ret->user = strdup(user);
    ret->password = strdup(password);
    return ret->user && ret->password ? 1 : error_set_memory(error);
}

int docker_config_credentials(const struct docker_config *config, const char *registry,
                              struct credentials *ret, struct error **error)
{
    *ret = (struct credentials){ 0 };
    json_t *auths = json_object_get(config->root, "auths");
    int result = take_entry(find_registry(auths, registry), ret, error);
    if (result < 0) {
        credentials_free(ret);
        error_prefix(error, "docker's credentials for %s", registry);
    }
    return result;
}
