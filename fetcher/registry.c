#include "fetcher/registry.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/call-internal.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/reference-internal.h"
#include "fetcher/reference.h"

void registry_manifest_free(struct registry_manifest *manifest)
{
    buffer_free(&manifest->body);
    free(manifest->media_type);
    *manifest = (struct registry_manifest){ 0 };
}

/* "name:tag" or "name@digest", for people. */
static char *name_with_target(const struct repository *repository, const char *target,
                              const char *verb)
{
    return format_text("%s '%s%c%s'", verb, repository->name, strchr(target, ':') ? '@' : ':',
                       target);
}

/* True, and the digest, for a digest; a target may come from a file of somebody else. */
static int parse_target(const char *target, bool *ret_by_digest, struct digest *ret,
                        struct error **error)
{
    *ret_by_digest = strchr(target, ':') != NULL;
    if (*ret_by_digest) return digest_parse(ret, target, error);
    if (tag_is_valid(target)) return 0;
    return error_set(error, ERROR_INVALID, "'%.140s' is neither a tag nor a digest", target);
}

/* The registry's own word about the digest; false: it said none that we know. */
static bool announced_digest(const struct call *call, struct digest *ret)
{
    const char *text = call->request.exchange.answer.content_digest;
    return text && digest_parse(ret, text, NULL) == 0;
}

/* Some storages serve manifests as application/octet-stream or with nothing said:
 * the manifest's own "mediaType" is then the better word. */
static char *media_type_of(const struct call *call)
{
    const char *said = call->request.exchange.answer.content_type;
    if (said && strncmp(said, "application/vnd.", 16) == 0) return strdup(said);
    json_t *root = json_loadb((const char *)call->body.data, call->body.length, 0, NULL);
    const char *own = json_string_value(json_object_get(root, "mediaType"));
    char *copy = strdup(own ? own : said ? said : "application/octet-stream");
    json_decref(root);
    return copy;
}

static int take_manifest(struct call *call, struct registry_manifest *ret, struct error **error)
{
    struct digest announced;
    if (call->expected)
        ret->digest = call->digest;
    else
        digest_of(call->body.data, call->body.length, &ret->digest);
    if (announced_digest(call, &announced) && !digest_equal(&announced, &ret->digest)) {
        char text[DIGEST_TEXT_SIZE];
        error_set(error, ERROR_INVALID,
                  "registry %s: %s: the answer has another digest than the "
                  "registry says, %s",
                  call->request.registry, call->request.what, digest_format(&ret->digest, text));
        return -1;
    }
    ret->media_type = media_type_of(call);
    if (!ret->media_type) return error_set_memory(error);
    ret->body = call->body;
    call->body = (struct buffer){ 0 };
    return 0;
}

int manifest_get(struct registry_client *client, const struct repository *repository,
                 const char *target, unsigned needed, struct registry_manifest *ret,
                 struct error **error)
{
    bool by_digest;
    struct digest expected;
    *ret = (struct registry_manifest){ 0 };
    if (parse_target(target, &by_digest, &expected, error) < 0) return -1;
    cleanup_call struct call call;
    int prepared = call_prepare(&call, client, repository,
                                name_with_target(repository, target, "get manifest"), error,
                                "manifests/%s", target);
    if (prepared < 0) return -1;
    call.request.accept = ACCEPT_MANIFESTS;
    call.request.needed = needed | (by_digest ? 0 : HOST_RESOLVE);
    if (by_digest) call.expected = &expected;
    if (call_run(&call, error) < 0) return -1;
    return take_manifest(&call, ret, error);
}

int registry_get_manifest(struct registry_client *client, const struct repository *repository,
                          const char *target, struct registry_manifest *ret, struct error **error)
{
    CLIENT_CALL(client);
    return manifest_get(client, repository, target, HOST_PULL, ret, error);
}

/* -2: the registry does not answer HEAD as it should. */
static int resolve_by_head(struct registry_client *client, const struct repository *repository,
                           const char *tag, unsigned patience_ms, struct digest *ret,
                           struct error **error)
{
    cleanup_call struct call call;
    int prepared =
        call_prepare(&call, client, repository, name_with_target(repository, tag, "resolve"), error,
                     "manifests/%s", tag);
    if (prepared < 0) return -1;
    struct error *failure = NULL;
    call.request.method = "HEAD";
    call.request.accept = ACCEPT_MANIFESTS;
    call.request.needed |= HOST_RESOLVE;
    call.request.timeout_ms = patience_ms;
    call.request.attempts = patience_ms ? 2 : 0;
    if (call_run(&call, &failure) == 0) return announced_digest(&call, ret) ? 0 : -2;
    if (error_kind_of(failure) != ERROR_UNSUPPORTED) return error_move(error, failure);
    error_free(failure);
    return -2;
}

int registry_resolve_tag(struct registry_client *client, const struct repository *repository,
                         const char *tag, unsigned patience_ms, struct digest *ret,
                         struct error **error)
{
    CLIENT_CALL(client);
    if (!tag_is_valid(tag)) return error_set(error, ERROR_INVALID, "'%.140s' is not a tag", tag);
    int resolved = resolve_by_head(client, repository, tag, patience_ms, ret, error);
    if (resolved != -2) return resolved;
    struct registry_manifest manifest;
    if (registry_get_manifest(client, repository, tag, &manifest, error) < 0) return -1;
    *ret = manifest.digest;
    registry_manifest_free(&manifest);
    return 0;
}

int registry_put_manifest(struct registry_client *client, const struct repository *repository,
                          const char *target, const char *media_type, const void *data,
                          size_t length, bool *ret_subject_known, struct error **error)
{
    CLIENT_CALL(client);
    bool by_digest;
    struct digest digest;
    if (parse_target(target, &by_digest, &digest, error) < 0) return -1;
    cleanup_call struct call call;
    int prepared = call_prepare(&call, client, repository,
                                name_with_target(repository, target, "push manifest"), error,
                                "manifests/%s", target);
    if (prepared < 0) return -1;
    call.request.method = "PUT";
    call.request.access = ACCESS_PUSH;
    call.request.needed = HOST_PUSH;
    call.request.content_type = media_type;
    call.request.body = data;
    call.request.body_length = length;
    if (call_run(&call, error) < 0) return -1;
    if (ret_subject_known) *ret_subject_known = call.request.exchange.answer.subject_known;
    return 0;
}

/* "name@digest" of a blob, for people. */
static char *name_with_digest(const struct repository *repository, const char *digest,
                              const char *verb)
{
    return format_text("%s '%s@%s'", verb, repository->name, digest);
}

int registry_get_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, size_t limit, struct buffer *ret,
                      struct error **error)
{
    CLIENT_CALL(client);
    char text[DIGEST_TEXT_SIZE];
    digest_format(digest, text);
    cleanup_call struct call call;
    int prepared =
        call_prepare(&call, client, repository, name_with_digest(repository, text, "get blob"),
                     error, "blobs/%s", text);
    if (prepared < 0) return -1;
    call.limit = limit;
    call.expected = digest;
    call.request.keep_redirect = true;
    if (call_run(&call, error) < 0) return -1;
    *ret = call.body;
    call.body = (struct buffer){ 0 };
    return 0;
}

int registry_has_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, struct error **error)
{
    CLIENT_CALL(client);
    char text[DIGEST_TEXT_SIZE];
    digest_format(digest, text);
    cleanup_call struct call call;
    int prepared =
        call_prepare(&call, client, repository, name_with_digest(repository, text, "look for blob"),
                     error, "blobs/%s", text);
    if (prepared < 0) return -1;
    struct error *failure = NULL;
    call.request.method = "HEAD";
    call.request.needed = HOST_PUSH; /* a copy at a mirror does not count */
    call.request.redirect_suffices = true;
    if (call_run(&call, &failure) == 0) return 1;
    if (error_kind_of(failure) != ERROR_NOT_FOUND) return error_move(error, failure);
    error_free(failure);
    return 0;
}
