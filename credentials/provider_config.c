/*
 * kubelet's CredentialProviderConfig:
 * https://kubernetes.io/docs/reference/config-api/kubelet-config.v1/
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/duration.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/yaml.h"
#include "credentials/provider-internal.h"

#define CONFIG_LIMIT  (1u << 20)
#define PROVIDERS_MAX 64u

void provider_settings_free(struct provider_settings *settings)
{
    for (size_t i = 0; i < settings->pattern_count; i++)
        free(settings->patterns[i]);
    for (char **at = settings->arguments; at && *at; at++)
        free(*at);
    for (char **at = settings->environment; at && *at; at++)
        free(*at);
    free(settings->patterns);
    free(settings->arguments);
    free(settings->environment);
    free(settings->name);
    free(settings->path);
    free(settings->api);
    *settings = (struct provider_settings){ 0 };
}

/* ---- one provider ---- */

/* A list in `provider`, which may be missing; NULL with the error set where it is something else.
 */
static const json_t *list(const json_t *provider, const char *field, const json_t *empty,
                          struct error **error)
{
    const json_t *found = json_object_get(provider, field);
    if (!found || json_is_null(found)) return empty;
    return json_field_array(provider, field, error);
}

/* It becomes the name of a program in the directory, as kubelet wants it. */
static int take_name(struct provider_settings *settings, const json_t *provider,
                     const char *directory, struct error **error)
{
    const char *name = json_field_text(provider, "name", error);
    if (!name) return -1;
    if (!*name || strpbrk(name, "/ \t\n") || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a program", name);
    settings->name = strdup(name);
    settings->path = format_text("%s/%s", directory, name);
    if (!settings->name || !settings->path) return error_set_memory(error);
    if (access(settings->path, X_OK) == 0) return 0;
    return error_set(error, ERROR_NOT_FOUND, "there is no program '%s'", settings->path);
}

static int take_api(struct provider_settings *settings, const json_t *provider,
                    struct error **error)
{
    static const char *const known[] = { "credentialprovider.kubelet.k8s.io/v1",
                                         "credentialprovider.kubelet.k8s.io/v1beta1",
                                         "credentialprovider.kubelet.k8s.io/v1alpha1" };
    const char *api = json_field_text(provider, "apiVersion", error);
    if (!api) return -1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(api, known[i]) != 0) continue;
        settings->api = strdup(api);
        return settings->api ? 0 : error_set_memory(error);
    }
    return error_set(error, ERROR_UNSUPPORTED, "the apiVersion '%.100s' is not known", api);
}

static int take_patterns(struct provider_settings *settings, const json_t *provider,
                         struct error **error)
{
    const json_t *patterns = json_field_array(provider, "matchImages", error);
    if (!patterns) return -1;
    size_t count = json_array_size(patterns);
    settings->patterns = calloc(count + 1, sizeof *settings->patterns);
    if (!settings->patterns) return error_set_memory(error);
    for (size_t i = 0; i < count; i++) {
        const char *pattern = json_string_value(json_array_get(patterns, i));
        if (!pattern || !*pattern)
            return error_set(error, ERROR_INVALID, "'matchImages' holds what is no pattern");
        settings->patterns[i] = strdup(pattern);
        if (!settings->patterns[i]) return error_set_memory(error);
        settings->pattern_count++;
    }
    return 0;
}

static int take_duration(struct provider_settings *settings, const json_t *provider,
                         struct error **error)
{
    const char *duration = json_field_text(provider, "defaultCacheDuration", error);
    return duration ? duration_parse(duration, &settings->cache_ms, error) : -1;
}

static int take_arguments(struct provider_settings *settings, const json_t *provider,
                          const json_t *empty, struct error **error)
{
    const json_t *arguments = list(provider, "args", empty, error);
    if (!arguments) return -1;
    size_t count = json_array_size(arguments);
    settings->arguments = calloc(count + 2, sizeof *settings->arguments);
    if (!settings->arguments) return error_set_memory(error);
    for (size_t i = 0; i <= count; i++) {
        const char *text =
            i == 0 ? settings->name : json_string_value(json_array_get(arguments, i - 1));
        if (!text) return error_set(error, ERROR_INVALID, "'args' holds what is no text");
        settings->arguments[i] = strdup(text);
        if (!settings->arguments[i]) return error_set_memory(error);
    }
    return 0;
}

/* In front of what this process has: of two with one name, the first counts for most programs. */
static int take_environment(struct provider_settings *settings, const json_t *provider,
                            const json_t *empty, struct error **error)
{
    const json_t *variables = list(provider, "env", empty, error);
    if (!variables) return -1;
    size_t count = json_array_size(variables), inherited = 0;
    while (environ[inherited])
        inherited++;
    settings->environment = calloc(count + inherited + 1, sizeof *settings->environment);
    if (!settings->environment) return error_set_memory(error);
    for (size_t i = 0; i < count + inherited; i++) {
        const json_t *variable = json_array_get(variables, i);
        const char *name = json_optional_text(variable, "name");
        const char *value = json_optional_text(variable, "value");
        if (i < count && (!name || !*name || strchr(name, '=')))
            return error_set(error, ERROR_INVALID, "'env' holds what has no name");
        settings->environment[i] =
            i < count ? format_text("%s=%s", name, value ? value : "") : strdup(environ[i - count]);
        if (!settings->environment[i]) return error_set_memory(error);
    }
    return 0;
}

static int read_settings(struct provider_settings *ret, const json_t *provider,
                         const char *directory, struct error **error)
{
    cleanup_json json_t *empty = json_array();
    if (take_name(ret, provider, directory, error) == 0 && take_api(ret, provider, error) == 0 &&
        take_patterns(ret, provider, error) == 0 && take_duration(ret, provider, error) == 0 &&
        take_arguments(ret, provider, empty, error) == 0 &&
        take_environment(ret, provider, empty, error) == 0)
        return 0;
    provider_settings_free(ret);
    return -1;
}

/* Such a program is sent a token that kubelet asks for and only kubelet can. */
static bool needs_service_account(const json_t *provider)
{
    const json_t *needs =
        json_object_get(json_object_get(provider, "tokenAttributes"), "requireServiceAccount");
    const char *text = json_string_value(needs);
    return json_is_true(needs) || (text && strcmp(text, "true") == 0);
}

/* ---- the file ---- */

static int add(struct credential_providers *ret, const json_t *provider, const char *directory,
               struct error **error)
{
    struct provider_settings settings = { 0 };
    if (needs_service_account(provider)) {
        const char *name = json_optional_text(provider, "name");
        log_warning("credential provider '%.100s' needs a pod's service account: it is left out",
                    name ? name : "");
        return 0;
    }
    if (read_settings(&settings, provider, directory, error) < 0) return -1;
    struct credential_provider *made = credential_provider_new(&settings, error);
    if (!made) return -1;
    ret->providers[ret->count++] = made;
    return 0;
}

static int add_all(struct credential_providers *ret, const json_t *root, const char *directory,
                   struct error **error)
{
    const char *kind = json_field_text(root, "kind", error);
    if (!kind) return -1;
    if (strcmp(kind, "CredentialProviderConfig") != 0)
        return error_set(error, ERROR_INVALID, "it is no CredentialProviderConfig");
    const json_t *providers = json_field_array(root, "providers", error);
    if (!providers) return -1;
    size_t count = json_array_size(providers);
    if (count > PROVIDERS_MAX)
        return error_set(error, ERROR_INVALID, "there are more than %u providers", PROVIDERS_MAX);
    ret->providers = calloc(count + 1, sizeof *ret->providers);
    if (!ret->providers) return error_set_memory(error);
    for (size_t i = 0; i < count; i++)
        if (add(ret, json_array_get(providers, i), directory, error) < 0)
            return error_prefix(error, "provider %zu", i + 1);
    return 0;
}

int credential_providers_read(struct credential_providers *ret, const char *config,
                              const char *directory, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    *ret = (struct credential_providers){ 0 };
    if (!directory)
        return error_set(error, ERROR_INVALID, "'%s' needs a directory of programs", config);
    if (file_read(config, CONFIG_LIMIT, &text, error) < 0) return -1;
    cleanup_json json_t *root = yaml_read_object(text.data, text.length, "its text", error);
    if (root && add_all(ret, root, directory, error) == 0) return 0;
    credential_providers_free(ret);
    return error_prefix(error, "'%s'", config);
}

void credential_providers_free(struct credential_providers *providers)
{
    for (size_t i = 0; i < providers->count; i++)
        credential_provider_free(providers->providers[i]);
    free(providers->providers);
    *providers = (struct credential_providers){ 0 };
}
