/* Distribution specification, "Listing Referrers", and the tag schema that stands in for it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/thread.h"
#include "fetcher/call-internal.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/quirks-internal.h"
#include "fetcher/url-internal.h"

#define ACCEPT_INDEX "application/vnd.oci.image.index.v1+json"
#define PAGES_LIMIT  32
#define TOTAL_LIMIT  ((size_t)REGISTRY_MANIFEST_LIMIT)

static void free_json(json_t **value)
{
    json_decref(*value);
}
#define cleanup_json __attribute__((cleanup(free_json)))

/* The document where it is an image index, else NULL. */
static json_t *parse_index(const struct buffer *body)
{
    json_t *root = json_loadb((const char *)body->data, body->length, 0, NULL);
    if (json_is_array(json_object_get(root, "manifests"))) return root;
    json_decref(root);
    return NULL;
}

/* RFC 8288: `<target>; rel="next"`; the target in fresh memory, NULL: no further page. */
static char *next_page(const struct answer *answer)
{
    const char *link = answer->link;
    const char *start = link ? strchr(link, '<') : NULL;
    const char *end = start ? strchr(start, '>') : NULL;
    if (!end || !strcasestr(end, "rel=") || !strcasestr(end, "next")) return NULL;
    return strndup(start + 1, (size_t)(end - start - 1));
}

static char *question(const struct repository *repository, const struct digest *subject)
{
    char text[DIGEST_TEXT_SIZE];
    return format_text("list referrers of '%s@%s'", repository->name, digest_format(subject, text));
}

/* One page at `url` (taken over); its list goes to the end of `all`. `*ret_next` is the next
 * page's address or NULL. */
static int add_page(struct registry_client *client, const struct repository *repository,
                    const struct digest *subject, char *url, json_t *all, char **ret_next,
                    struct error **error)
{
    cleanup_call struct call call;
    if (call_prepare_url(&call, client, repository, question(repository, subject), url, error) < 0)
        return -1;
    call.request.accept = ACCEPT_INDEX;
    call.request.needed |= HOST_RESOLVE;
    if (call_run(&call, error) < 0) return -1;
    cleanup_json json_t *page = parse_index(&call.body);
    if (!page)
        return error_set(error, ERROR_INVALID, "registry %s: a page of referrers is no image index",
                         repository->registry);
    if (json_array_extend(all, json_object_get(page, "manifests")) < 0)
        return error_set_memory(error);
    cleanup_free char *next = next_page(&call.request.exchange.answer);
    *ret_next = next ? url_resolve(call.request.current_url, next, error) : NULL;
    return next && !*ret_next ? -1 : 0;
}

/* Further pages after the first; gives all in one document. */
static int add_pages(struct registry_client *client, const struct repository *repository,
                     const struct digest *subject, char *next, json_t *root, struct buffer *ret,
                     struct error **error)
{
    json_t *all = json_object_get(root, "manifests");
    for (unsigned pages = 1; next; pages++) {
        char *url = next;
        if (pages >= PAGES_LIMIT) {
            free(url);
            return error_set(error, ERROR_INVALID,
                             "registry %s: the list of referrers has more than %d pages",
                             repository->registry, PAGES_LIMIT);
        }
        if (add_page(client, repository, subject, url, all, &next, error) < 0) return -1;
    }
    cleanup_free char *text = json_dumps(root, JSON_COMPACT);
    if (!text || buffer_append(ret, text, strlen(text)) < 0) return error_set_memory(error);
    if (ret->length <= TOTAL_LIMIT) return 0;
    buffer_free(ret);
    return error_set(error, ERROR_INVALID, "registry %s: the list of referrers is too large",
                     repository->registry);
}

/* Registries without the API answer in these ways. (Another host may have been asked after the one
 * whose word counts.) */
static bool lacks_interface(const struct call *call)
{
    long status = call->request.verdict_status;
    return status == 400 || status == 404 || status == 405 || status == 406 || status == 501;
}

/* The first page; its failure in `*ret_failure`, for it may only mean that there is no such
 * interface. -1: the question could not be made. */
static int ask_interface(struct call *call, struct registry_client *client,
                         const struct repository *repository, const struct digest *subject,
                         const char *artifact_type, unsigned needed, struct error **ret_failure,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    int prepared = call_prepare(call, client, repository, question(repository, subject), error,
                                "referrers/%s", digest_format(subject, text));
    if (prepared < 0) return -1;
    struct request *request = &call->request;
    if (artifact_type) request->path = url_add_query(request->path, "artifactType", artifact_type);
    if (!request->path) return error_set_memory(error);
    request->needed = needed;
    request->accept = ACCEPT_INDEX;
    call_run(call, ret_failure);
    return 0;
}

/* 1: the registry lists referrers, 0: it has no such interface; -1: error. Takes `failure`. */
static int judge_interface(const struct call *call, struct error *failure, json_t **ret_page,
                           struct error **error)
{
    if (failure && (error_kind_of(failure) == ERROR_CANCELLED || !lacks_interface(call)))
        return error_move(error, failure);
    *ret_page = failure ? NULL : parse_index(&call->body);
    error_free(failure);
    return *ret_page ? 1 : 0;
}

/* 1: the list is in `ret`, 0: the registry has no such interface. */
static int by_interface(struct registry_client *client, const struct repository *repository,
                        const struct digest *subject, const char *artifact_type, struct buffer *ret,
                        struct error **error)
{
    cleanup_call struct call call;
    cleanup_json json_t *page = NULL;
    struct error *failure = NULL;
    /* Nothing vouches for a list: it is for those who may say what a tag means. */
    if (ask_interface(&call, client, repository, subject, artifact_type, HOST_PULL | HOST_RESOLVE,
                      &failure, error) < 0)
        return -1;
    /* A mirror without the interface may have the tag, where nobody else can be asked. */
    if (failure && error_kind_of(failure) == ERROR_UNREACHABLE && call.request.lacked) {
        error_free(failure);
        return 0;
    }
    int listed = judge_interface(&call, failure, &page, error);
    if (listed <= 0) return listed;
    cleanup_free char *next = next_page(&call.request.exchange.answer);
    if (!next) {
        *ret = call.body;
        call.body = (struct buffer){ 0 };
        return 1;
    }
    char *url = url_resolve(call.request.current_url, next, error);
    if (!url) return -1;
    return add_pages(client, repository, subject, url, page, ret, error) < 0 ? -1 : 1;
}

int registry_has_referrers_api(struct registry_client *client, const struct repository *repository,
                               const struct digest *subject, struct error **error)
{
    CLIENT_CALL(client);
    cleanup_call struct call call;
    cleanup_json json_t *page = NULL;
    struct error *failure = NULL;
    if (ask_interface(&call, client, repository, subject, NULL, HOST_PUSH, &failure, error) < 0)
        return -1;
    return judge_interface(&call, failure, &page, error);
}

/* Distribution specification, "Referrers Tag Schema". */
static int by_tag(struct registry_client *client, const struct repository *repository,
                  const struct digest *subject, unsigned needed, struct buffer *ret,
                  struct error **error)
{
    char hex[DIGEST_HEX_SIZE], tag[7 + DIGEST_HEX_SIZE];
    struct registry_manifest manifest;
    struct error *failure = NULL;
    snprintf(tag, sizeof tag, "sha256-%s", digest_format_hex(subject, hex));
    if (manifest_get(client, repository, tag, needed, &manifest, &failure) < 0) {
        if (error_kind_of(failure) != ERROR_NOT_FOUND) return error_move(error, failure);
        error_free(failure);
        return 0;
    }
    bool none = quirk_tag_is_subject(&manifest.digest, subject);
    cleanup_json json_t *root = none ? NULL : parse_index(&manifest.body);
    if (root) {
        *ret = manifest.body;
        manifest.body = (struct buffer){ 0 };
    } else if (!none) {
        error_set(error, ERROR_INVALID, "registry %s: '%s:%s' is no image index",
                  repository->registry, repository->name, tag);
    }
    registry_manifest_free(&manifest);
    return root || none ? 0 : -1;
}

int registry_get_fallback_list(struct registry_client *client, const struct repository *repository,
                               const struct digest *subject, struct buffer *ret,
                               struct error **error)
{
    CLIENT_CALL(client);
    *ret = (struct buffer){ 0 };
    return by_tag(client, repository, subject, HOST_PUSH, ret, error);
}

struct tag_lookup {
    struct registry_client *client;
    const struct repository *repository;
    const struct digest *subject;
    struct buffer list;
    struct error *failure; /* NULL: `list` is good */
};

static void *look_up_tag(void *argument)
{
    struct tag_lookup *lookup = argument;
    by_tag(lookup->client, lookup->repository, lookup->subject, HOST_PULL, &lookup->list,
           &lookup->failure);
    return NULL;
}

/* Which of the two a registry has is not known before it has answered, and a mount waits for it: so
 * both are asked at once, for one round trip. */
int registry_get_referrers(struct registry_client *client, const struct repository *repository,
                           const struct digest *subject, const char *artifact_type,
                           struct buffer *ret, struct error **error)
{
    CLIENT_CALL(client);
    struct tag_lookup lookup = { .client = client, .repository = repository, .subject = subject };
    pthread_t thread;
    *ret = (struct buffer){ 0 };
    if (thread_start(&thread, "sluice-tag", look_up_tag, &lookup, error) < 0) return -1;
    int listed = by_interface(client, repository, subject, artifact_type, ret, error);
    pthread_join(thread, NULL);
    if (listed == 0) {
        *ret = lookup.list;
        return lookup.failure ? error_move(error, lookup.failure) : 0;
    }
    buffer_free(&lookup.list);
    error_free(lookup.failure);
    return listed < 0 ? -1 : 0;
}
