/* Distribution specification, "Pushing a blob monolithically": POST, then PUT. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/call-internal.h"
#include "fetcher/hosts-internal.h"
#include "fetcher/url-internal.h"

#define FIRST_DELAY_MS 500u

static char *question(const struct repository *repository, const char *digest)
{
    return format_text("push blob '%s@%s'", repository->name, digest);
}

/* Opens an upload; gives the address to PUT to in fresh memory. */
static char *open_upload(struct registry_client *client, const struct repository *repository,
                         const char *digest, unsigned delay_ms, struct error **error)
{
    cleanup_call struct call call;
    int prepared = call_prepare(&call, client, repository, question(repository, digest), error,
                                "blobs/uploads/");
    if (prepared < 0) return NULL;
    call.request.method = "POST";
    call.request.access = ACCESS_PUSH;
    call.request.needed = HOST_PUSH;
    call.request.delay_ms = delay_ms;
    if (call_run(&call, error) < 0) return NULL;
    const struct answer *answer = &call.request.exchange.answer;
    if (!answer->location) {
        error_set(error, ERROR_INVALID, "registry %s: %s: it does not say where to upload to",
                  repository->registry, call.request.what);
        return NULL;
    }
    char *url = url_resolve(call.request.current_url, answer->location, error);
    if (!url) {
        error_prefix(error, "registry %s: %s", repository->registry, call.request.what);
        return NULL;
    }
    url = url_add_query(url, "digest", digest);
    if (!url) error_set_memory(error);
    return url;
}

static int send_content(struct registry_client *client, const struct repository *repository,
                        const char *digest, char *url, const void *data, size_t length,
                        struct error **error)
{
    cleanup_call struct call call;
    int prepared =
        call_prepare_url(&call, client, repository, question(repository, digest), url, error);
    if (prepared < 0) return -1;
    call.request.method = "PUT";
    call.request.access = ACCESS_PUSH;
    call.request.needed = HOST_PUSH;
    call.request.content_type = "application/octet-stream";
    call.request.body = data;
    call.request.body_length = length;
    /* An upload is used up by the first PUT: what fails starts again with a new one. */
    call.request.attempts = 1;
    return call_run(&call, error);
}

/* *ret_opened: the upload was; what does not open was tried as often as it may be. */
static int try_once(struct registry_client *client, const struct repository *repository,
                    const char *digest, unsigned delay_ms, const void *data, size_t length,
                    bool *ret_opened, struct error **error)
{
    char *url = open_upload(client, repository, digest, delay_ms, error);
    *ret_opened = url != NULL;
    return url ? send_content(client, repository, digest, url, data, length, error) : -1;
}

/* A connection that broke, or an upload that the registry no longer knows. */
static bool is_worth_another(const struct error *error)
{
    enum error_kind kind = error_kind_of(error);
    return kind == ERROR_UNREACHABLE || kind == ERROR_NOT_FOUND;
}

int registry_put_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, const void *data, size_t length,
                      struct error **error)
{
    CLIENT_CALL(client);
    char text[DIGEST_TEXT_SIZE];
    digest_format(digest, text);
    unsigned delay = 0;
    for (unsigned attempt = 1;; attempt++) {
        struct error *failure = NULL;
        bool opened;
        if (try_once(client, repository, text, delay, data, length, &opened, &failure) == 0)
            return 0;
        if (!opened || attempt >= client->attempts || !is_worth_another(failure))
            return error_move(error, failure);
        /* The answer may have been lost, not the blob. */
        if (registry_has_blob(client, repository, digest, NULL) == 1) {
            error_free(failure);
            return 0;
        }
        error_free(failure);
        atomic_fetch_add(&client->retries, 1);
        delay = delay ? 2 * delay : FIRST_DELAY_MS;
    }
}
