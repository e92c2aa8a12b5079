/*
 * What a credential provider answers: CredentialProviderResponse,
 * https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/duration.h"
#include "base/json.h"
#include "credentials/image_pattern.h"
#include "credentials/kept_secret.h"
#include "credentials/provider-internal.h"

#define ENTRIES_MAX 256u
#define SECRET_MAX  (64u << 10)

void provider_answer_free(struct provider_answer *answer)
{
    if (!answer) return;
    for (size_t i = 0; i < answer->count; i++) {
        free(answer->entries[i].pattern);
        kept_secret_free(answer->entries[i].secret);
    }
    free(answer->entries);
    free(answer->of);
    free(answer);
}

static void answer_free_function(struct provider_answer **answer)
{
    provider_answer_free(*answer);
}
#define cleanup_answer __attribute__((cleanup(answer_free_function)))

/* The strings stay the JSON's. */
static int keep(struct provider_entry *entry, const char *user, const char *password,
                struct error **error)
{
    struct credentials shown = { .user = (char *)user, .password = (char *)password };
    entry->secret = kept_secret_new(&shown, error);
    return entry->secret ? 0 : -1;
}

/* A user and a password that are both empty stand for anonymous access. */
static int take_entry(struct provider_answer *answer, const char *pattern, const json_t *auth,
                      struct error **error)
{
    const char *user = json_optional_text(auth, "username");
    const char *password = json_optional_text(auth, "password");
    if (!user) user = "";
    if (!password) password = "";
    if (!json_is_object(auth) || strlen(user) > SECRET_MAX || strlen(password) > SECRET_MAX)
        return error_set(error, ERROR_INVALID, "its answer holds no user and password");
    if (!*user && !*password) return 0;
    struct provider_entry *entry = &answer->entries[answer->count];
    entry->pattern = strdup(pattern);
    if (!entry->pattern) return error_set_memory(error);
    answer->count++;
    return keep(entry, user, password, error);
}

static int take_entries(struct provider_answer *answer, json_t *auths, struct error **error)
{
    const char *pattern;
    json_t *auth;
    size_t count = json_object_size(auths);
    if (!auths || json_is_null(auths)) return 0;
    if (!json_is_object(auths) || count > ENTRIES_MAX)
        return error_set(error, ERROR_INVALID, "its answer has no list of credentials");
    answer->entries = calloc(count ? count : 1, sizeof *answer->entries);
    if (!answer->entries) return error_set_memory(error);
    json_object_foreach(auths, pattern, auth)
    {
        if (take_entry(answer, pattern, auth, error) < 0) return -1;
    }
    return 0;
}

/* For which images besides `image` it is. */
static int take_key(struct provider_answer *answer, const char *type, const char *image,
                    struct error **error)
{
    if (type && strcmp(type, "Global") == 0) return 0;
    if (type && strcmp(type, "Image") == 0)
        answer->of = strdup(image);
    else if (type && strcmp(type, "Registry") == 0)
        answer->of = strndup(image, strcspn(image, "/"));
    else
        return error_set(error, ERROR_INVALID,
                         "the \"cacheKeyType\" of its answer is not Image, Registry or Global");
    return answer->of ? 0 : error_set_memory(error);
}

static int take_duration(struct provider_answer *answer, const struct provider_settings *settings,
                         const json_t *duration, struct error **error)
{
    uint64_t lasting = settings->cache_ms;
    const char *text = json_string_value(duration);
    if (text && duration_parse(text, &lasting, NULL) < 0)
        return error_set(error, ERROR_INVALID, "the \"cacheDuration\" of its answer is none");
    answer->until = answer->obtained + lasting;
    return 0;
}

static bool has_text(const json_t *root, const char *field, const char *wanted)
{
    const char *text = json_optional_text(root, field);
    return text && strcmp(text, wanted) == 0;
}

static int take_answer(struct provider_answer *answer, const struct provider_settings *settings,
                       const json_t *root, const char *image, struct error **error)
{
    if (!has_text(root, "kind", "CredentialProviderResponse") ||
        !has_text(root, "apiVersion", settings->api))
        return error_set(error, ERROR_INVALID, "its answer is no CredentialProviderResponse of %s",
                         settings->api);
    if (take_key(answer, json_optional_text(root, "cacheKeyType"), image, error) < 0 ||
        take_duration(answer, settings, json_object_get(root, "cacheDuration"), error) < 0)
        return -1;
    return take_entries(answer, json_object_get(root, "auth"), error);
}

struct provider_answer *provider_answer_parse(const struct provider_settings *settings,
                                              const char *image, const struct buffer *text,
                                              uint64_t now, struct error **error)
{
    cleanup_answer struct provider_answer *answer = calloc(1, sizeof *answer);
    if (!answer) {
        error_set_memory(error);
        return NULL;
    }
    answer->obtained = now;
    /* The reason in the error of a reader of JSON would quote what it has read. */
    cleanup_json json_t *root = json_read_object(text->data, text->length, "it", NULL);
    if (!root) {
        error_set(error, ERROR_INVALID, "its answer is no JSON object");
        return NULL;
    }
    if (take_answer(answer, settings, root, image, error) < 0) return NULL;
    return take_pointer(&answer);
}

bool provider_answer_is_of(const struct provider_answer *answer, const char *image)
{
    size_t length = answer->of ? strlen(answer->of) : 0;
    if (length == 0) return !answer->of;
    if (strncmp(answer->of, image, length) != 0) return false;
    return image[length] == '\0' || (image[length] == '/' && !strchr(answer->of, '/'));
}

static bool entry_matches(const struct provider_entry *entry, const char *image)
{
    /* Docker Hub is what it once was for those who store credentials. */
    static const char hub[] = "docker.io";
    if (image_pattern_matches(entry->pattern, image)) return true;
    return strncmp(image, "docker.io/", sizeof hub) == 0 &&
           credentials_key_matches(entry->pattern, hub);
}

const struct kept_secret *provider_answer_find(const struct provider_answer *answer,
                                               const char *image, const struct digest *refused)
{
    const struct provider_entry *best = NULL;
    bool best_refused = false;
    for (size_t i = 0; i < answer->count; i++) {
        const struct provider_entry *entry = &answer->entries[i];
        if (!entry_matches(entry, image)) continue;
        bool no_good = refused && digest_equal(refused, kept_secret_fingerprint(entry->secret));
        /* As kubelet has it: of two that match, the one that would be sorted last. */
        bool better = !best || (best_refused && !no_good) ||
                      (best_refused == no_good && strcmp(entry->pattern, best->pattern) > 0);
        if (!better) continue;
        best = entry;
        best_refused = no_good;
    }
    return best ? best->secret : NULL;
}
