#include "fetcher/credentials-internal.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/file.h"
#include "fetcher/credential_helper-internal.h"
#include "fetcher/docker_config-internal.h"
#include "fetcher/quirks-internal.h"

#define HELPER_TIMEOUT_MS 30000
#define TOKEN_LIMIT       (64u << 10)

void secret_free(char *secret)
{
    if (secret) explicit_bzero(secret, strlen(secret));
    free(secret);
}

void secret_buffer_free(struct buffer *buffer)
{
    if (buffer->data) explicit_bzero(buffer->data, buffer->capacity);
    buffer_free(buffer);
}

void credentials_free(struct credentials *credentials)
{
    free(credentials->user);
    secret_free(credentials->password);
    secret_free(credentials->identity_token);
    secret_free(credentials->registry_token);
    free(credentials->problem);
    *credentials = (struct credentials){ 0 };
}

char *credentials_basic(const struct credentials *credentials)
{
    char *pair = format_text("%s:%s", credentials->user, credentials->password);
    if (!pair) return NULL;
    size_t length = strlen(pair);
    char *encoded = malloc((length + 2) / 3 * 4 + 1);
    if (encoded)
        EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)pair, (int)length);
    secret_free(pair);
    return encoded;
}

bool registry_token_is_valid(const char *token)
{
    size_t length = strnlen(token, TOKEN_LIMIT + 1);
    if (length == 0 || length > TOKEN_LIMIT) return false;
    for (; *token; token++)
        if (*token <= ' ' || *token >= 0x7f) return false;
    return true;
}

/* The helper first, then what the file holds: a helper that fails hides no stored password. Takes
 * `path` (NULL: there is none). */
static void search_file(char *path, const char *registry, int cancel_descriptor,
                        struct credentials *ret, struct error **error)
{
    cleanup_free char *own = path;
    struct docker_config *config = own ? docker_config_read(own, error) : NULL;
    if (!config) return;
    const char *helper = docker_config_helper(config, registry);
    int found = helper ? credential_helper_get(helper, quirk_credentials_key(registry),
                                               cancel_descriptor, HELPER_TIMEOUT_MS, ret, error)
                       : 0;
    if (found <= 0) docker_config_credentials(config, registry, ret, *error ? NULL : error);
    docker_config_free(config);
}

static bool only_missing(const struct error *error)
{
    return error && error_kind_of(error) == ERROR_NOT_FOUND;
}

/* Docker's file, then podman's. What was wrong with the first is told before what was with the
 * second. */
static void search(const char *registry, int cancel_descriptor, struct credentials *ret,
                   struct error **error)
{
    struct error *further = NULL;
    search_file(docker_config_path(), registry, cancel_descriptor, ret, error);
    if (credentials_are_known(ret)) return;
    credentials_free(ret);
    search_file(podman_config_path(), registry, cancel_descriptor, ret, &further);
    if (further && (!*error || only_missing(*error))) {
        error_free(*error);
        *error = further;
    } else {
        error_free(further);
    }
}

void credentials_search(const char *registry, int cancel_descriptor, struct credentials *ret)
{
    cleanup_error struct error *error = NULL;
    *ret = (struct credentials){ 0 };
    search(registry, cancel_descriptor, ret, &error);
    if (error && !only_missing(error)) ret->problem = strdup(error_message(error));
}
