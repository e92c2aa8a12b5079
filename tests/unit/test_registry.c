/* The registry client against a registry with faults (tests/fakes/registry_faults.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "faulty_registry.h"

#define LARGE 6000000u

static uint8_t *large;
static struct digest large_digest, manifest_digest;

static void assert_fetches(const char *name)
{
    struct error *error = NULL;
    if (fetch(name, 1000, 5000, 20000, &error) < 0) fail_msg("%s", error_message(error));
}

/* No error may show what is secret in these tests. */
static void assert_error(struct error *error, enum error_kind kind, const char *part)
{
    assert_non_null(error);
    const char *message = error_message(error);
    if (error_kind_of(error) != kind) fail_msg("kind %d: %s", error_kind_of(error), message);
    if (!strstr(message, part)) fail_msg("no '%s' in: %s", part, message);
    assert_null(strstr(message, "pass:word"));
    assert_null(strstr(message, "dXNlcjpwYXNzOndvcmQ"));
    assert_null(strstr(message, "signature"));
    assert_null(strstr(message, "issued-"));
    assert_null(strstr(message, "the identity"));
    error_free(error);
}

static void assert_fetch_fails(const char *name, enum error_kind kind, const char *part)
{
    struct error *error = NULL;
    assert_int_equal(fetch(name, 1000, 5000, 60000, &error), -1);
    assert_error(error, kind, part);
}

static int get_manifest(const char *name, const char *target, struct error **error)
{
    struct registry_manifest manifest;
    struct repository from = repository(name);
    if (registry_get_manifest(client, &from, target, &manifest, error) < 0) return -1;
    assert_string_equal(manifest.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_true(digest_equal(&manifest.digest, &manifest_digest));
    registry_manifest_free(&manifest);
    return 0;
}

static void assert_manifest_fails(const char *name, const char *target, enum error_kind kind,
                                  const char *part)
{
    struct error *error = NULL;
    assert_int_equal(get_manifest(name, target, &error), -1);
    assert_error(error, kind, part);
}

static void write_config(const char *text)
{
    char *path = in_directory("config.json");
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, NULL), 0);
    free(path);
}

static void log_in(const char *with)
{
    char *text = format_text("{\"auths\":{\"%s\":%s,\"%s\":%s}}", registry, with, secure, with);
    write_config(text);
    free(text);
}

#define USER     "{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"}"
#define WRONG    "{\"auth\":\"d3Jvbmc6cGFzcw==\"}"
#define IDENTITY "{\"identitytoken\":\"the identity\"}"

/* --- manifests and blobs as they should be */

static void test_manifest(void **state)
{
    char digest[DIGEST_TEXT_SIZE];
    struct error *error = NULL;
    (void)state;
    assert_int_equal(get_manifest("good/a", "tag", NULL), 0);
    digest_format(&manifest_digest, digest);
    assert_int_equal(get_manifest("good/a", digest, NULL), 0);
    assert_manifest_fails("good/a", "other", ERROR_NOT_FOUND, "get manifest 'good/a:other'");
    assert_int_equal(get_manifest("good/a", "../x", &error), -1);
    assert_error(error, ERROR_INVALID, "tag");
    error = NULL;
    assert_int_equal(get_manifest("good/../a", "tag", &error), -1);
    assert_error(error, ERROR_INVALID, "repository");
}

static void test_blob(void **state)
{
    struct repository from = repository("good/a");
    struct buffer body = { 0 };
    struct error *error = NULL;
    (void)state;
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB, &body, NULL), 0);
    assert_int_equal(body.length, BLOB);
    assert_memory_equal(body.data, blob, BLOB);
    buffer_free(&body);
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB - 1, &body, &error), -1);
    assert_error(error, ERROR_INVALID, "larger than");
    assert_int_equal(registry_has_blob(client, &from, &blob_digest, NULL), 1);
    assert_int_equal(registry_has_blob(client, &from, &manifest_digest, NULL), 0);
    /* Storage may refuse to tell, but the registry knows where it is. */
    from.name = "redirect-head/a";
    assert_int_equal(registry_has_blob(client, &from, &blob_digest, NULL), 1);
    assert_int_equal(logged("storage HEAD", "redirect-head"), 0);
    from.name = "good/a";
    error = NULL;
    assert_int_equal(registry_get_blob(client, &from, &manifest_digest, 9, &body, &error), -1);
    assert_error(error, ERROR_NOT_FOUND, "BLOB_UNKNOWN");
}

static void test_resolve(void **state)
{
    static const char *const names[] = { "good/a", "no-head/a", "silent-head/a" };
    struct digest digest;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct repository from = repository(names[i]);
        memset(&digest, 0, sizeof digest);
        assert_int_equal(registry_resolve_tag(client, &from, "tag", 0, &digest, NULL), 0);
        assert_true(digest_equal(&digest, &manifest_digest));
    }
    struct repository from = repository("good/a");
    struct error *error = NULL;
    assert_int_equal(registry_resolve_tag(client, &from, "other", 0, &digest, &error), -1);
    assert_error(error, ERROR_NOT_FOUND, "resolve 'good/a:other'");
    /* The client's own bounds would be many seconds. */
    from = repository("silence/a");
    error = NULL;
    assert_int_equal(registry_resolve_tag(client, &from, "tag", 300, &digest, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "within 300 ms");
}

static void test_bodies_that_are_wrong(void **state)
{
    struct repository from = repository("other-bytes-once/a");
    struct buffer body = { 0 };
    struct error *error = NULL;
    (void)state;
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB, &body, NULL), 0);
    assert_memory_equal(body.data, blob, BLOB);
    buffer_free(&body);
    from.name = "other-bytes/a";
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB, &body, &error), -1);
    assert_error(error, ERROR_INVALID, "digest");
    char digest[DIGEST_TEXT_SIZE];
    assert_manifest_fails("other-bytes/a", digest_format(&manifest_digest, digest), ERROR_INVALID,
                          "digest");
    assert_manifest_fails("large/a", "tag", ERROR_INVALID, "larger than");
    assert_manifest_fails("large-chunked/a", "tag", ERROR_INVALID, "larger than");
    assert_manifest_fails("headers/a", "tag", ERROR_INVALID, "headers");
    assert_manifest_fails("header-without-end/a", "tag", ERROR_INVALID,
                          "a header that is too long");
    assert_manifest_fails("garbage/a", "tag", ERROR_UNREACHABLE, "garbage/a");
    assert_manifest_fails("proxy-page/a", "tag", ERROR_UNREACHABLE, "404");
}

/* --- ranges */

static void test_ranges(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_int_equal(fetch("good/a", 0, BLOB, 20000, NULL), 0);
    assert_int_equal(fetch("good/a", 0, 1, 20000, NULL), 0);
    assert_int_equal(fetch("good/a", BLOB - 1, 1, 20000, NULL), 0);
    assert_int_equal(fetch("good/a", BLOB, 1, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "outside");
    error = NULL;
    assert_int_equal(fetch("good/a", BLOB - 1, 2, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "another part");
    error = NULL;
    assert_int_equal(fetch("good/a", 0, 0, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "no valid range");
    error = NULL;
    assert_int_equal(fetch("good/a", UINT64_MAX, 2, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "no valid range");
    error = NULL;
    assert_int_equal(fetch("Bad Name", 0, 1, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "repository");
}

static void test_ranges_that_a_server_ignores(void **state)
{
    (void)state;
    assert_int_equal(fetch("ignores-ranges/a", 0, BLOB, 20000, NULL), 0);
    assert_int_equal(fetch("ignores-ranges/a", 0, 10, 20000, NULL), 0);
    assert_int_equal(fetch("ignores-ranges/a", 200000, 1234, 20000, NULL), 0);
    assert_int_equal(fetch("ignores-ranges/a", BLOB - 10, 10, 20000, NULL), 0);
    /* Gigabytes are not read for the sake of a few bytes. */
    struct error *error = NULL;
    assert_int_equal(fetch("ignores-ranges/a", 1u << 30, 10, 20000, &error), -1);
    assert_error(error, ERROR_INVALID, "it ignores ranges");
}

static void test_ranges_that_are_wrong(void **state)
{
    (void)state;
    assert_fetches("wrong-range-once/a");
    assert_fetch_fails("wrong-range/a", ERROR_INVALID, "another part");
    assert_fetch_fails("wrong-start/a", ERROR_INVALID, "another part");
    assert_fetch_fails("no-content-range/a", ERROR_INVALID, "which part");
    assert_fetch_fails("short-whole/a", ERROR_INVALID, "bytes instead of");
    assert_fetch_fails("multipart/a", ERROR_INVALID, "which part");
    assert_fetch_fails("gzipped/a", ERROR_INVALID, "bytes instead of");
    assert_fetch_fails("refuses-ranges/a", ERROR_INVALID, "outside the blob");
    /* The storage's mark on a blob changes nothing about its bytes. */
    assert_fetches("marked-as-gzip/a");
    assert_fetches("too-long/a");
}

static void test_many_ranges_at_once(void **state)
{
    enum { COUNT = 300 };
    static struct fetched fetched[COUNT];
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, COUNT };
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        char name[] = "good/many"; /* borrowed for the time of the call only */
        struct repository from = repository(name);
        struct digest digest = blob_digest;
        fetched[i] = (struct fetched){ .waiting = &waiting };
        registry_fetch_range(client, &from, &digest, i * 1000, 1000, 60000, on_done, &fetched[i]);
        memset(name, 'x', sizeof name - 1);
        memset(&digest, 0, sizeof digest);
    }
    wait_for_all(&waiting);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_null(fetched[i].error);
        assert_int_equal(fetched[i].body.length, 1000);
        assert_memory_equal(fetched[i].body.data, blob + i * 1000, 1000);
        buffer_free(&fetched[i].body);
    }
}

/* A callback may ask for more. */
struct chain {
    struct waiting waiting;
    unsigned left;
};

static void on_link(void *context, struct buffer *body, struct error *error)
{
    struct chain *chain = context;
    struct repository from = repository("good/chain");
    assert_null(error);
    assert_memory_equal(body->data, blob, 100);
    if (--chain->left > 0) {
        registry_fetch_range(client, &from, &blob_digest, 0, 100, 20000, on_link, chain);
        return;
    }
    pthread_mutex_lock(&chain->waiting.lock);
    chain->waiting.left = 0;
    pthread_cond_signal(&chain->waiting.changed);
    pthread_mutex_unlock(&chain->waiting.lock);
}

static void test_range_from_a_callback(void **state)
{
    struct chain chain = { { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1 }, 5 };
    struct repository from = repository("good/chain");
    (void)state;
    registry_fetch_range(client, &from, &blob_digest, 0, 100, 20000, on_link, &chain);
    wait_for_all(&chain.waiting);
    assert_int_equal(chain.left, 0);
}

/* --- transport */

static void test_faults_that_pass(void **state)
{
    (void)state;
    assert_fetches("reset-once/a");
    assert_fetches("truncate-once/a");
    assert_fetches("stall-once/a");
    assert_fetches("busy-once/a");
    assert_int_equal(logged("registry GET /v2/busy-once/a/", ""), 2);
    assert_fetches("busy-until/a");
    assert_int_equal(logged("registry GET /v2/busy-until/a/", ""), 2);
    /* The part that had arrived is not asked for again. */
    assert_int_equal(logged("/v2/truncate-once/a/", "range=bytes=2000-5999"), 1);
}

static void test_faults_that_stay(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_fetch_fails("reset/a", ERROR_UNREACHABLE, "connection");
    assert_int_equal(logged("/v2/reset/a/", ""), 3);
    assert_fetch_fails("failing/a", ERROR_UNREACHABLE, "HTTP 500");
    assert_int_equal(logged("/v2/failing/a/", ""), 3);
    assert_fetch_fails("forbidden/a", ERROR_DENIED, "DENIED");
    assert_int_equal(logged("/v2/forbidden/a/", ""), 1);
    assert_fetch_fails("unknown-scenario/a", ERROR_NOT_FOUND, "NAME_UNKNOWN");
    /* The server would be asked again after more time than there is. */
    assert_int_equal(fetch("busy-long/a", 0, 1, 10000, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "HTTP 503");
    assert_int_equal(logged("/v2/busy-long/a/", ""), 1);
    error = NULL;
    assert_int_equal(fetch("drip/a", 0, BLOB, 60000, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "the answer stalled");
    error = NULL;
    assert_int_equal(fetch("stall/a", 0, 100, 500, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "500 ms");
}

static void test_nobody_listens(void **state)
{
    struct repository from = { "127.0.0.1:1", "a" };
    struct registry_manifest manifest;
    struct error *error = NULL;
    (void)state;
    assert_int_equal(registry_get_manifest(client, &from, "1", &manifest, &error), -1);
    assert_error(error, ERROR_UNREACHABLE,
                 "registry 127.0.0.1:1: get manifest 'a:1': connection refused");
    from.registry = "no-such-host.invalid";
    error = NULL;
    assert_int_equal(registry_get_manifest(client, &from, "1", &manifest, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "no-such-host.invalid");
}

/* --- redirects */

static void test_redirects(void **state)
{
    (void)state;
    log_in(USER);
    for (unsigned i = 0; i < 6; i++)
        assert_fetches("redirect/a");
    /* The registry saw the password, the storage nothing of it. */
    assert_true(logged("registry GET /v2/redirect/a/", "auth=Basic") > 0);
    assert_int_equal(logged("storage GET /redirect/a/", "auth=-"), 7);
    assert_int_equal(logged("storage", "auth=B"), 0);
    /* The target was remembered, and asked for anew when its signature ended. */
    assert_int_equal(logged("registry GET /v2/redirect/a/", "auth=Basic"), 2);
    assert_int_equal(logged("storage GET /redirect/a/", "signature=secret1"), 3);
    /* A remembered target that no longer answers is not asked again and again. */
    assert_fetches("redirect-moved/a");
    assert_fetches("redirect-moved/a");
    assert_int_equal(logged("registry GET /v2/redirect-moved/a/", ""), 2);
    assert_int_equal(logged("storage GET /redirect-moved/a/", "signature=alive"), 1);
    assert_fetch_fails("redirect-refused/a", ERROR_DENIED, "redirected to 127.0.0.1:");
    assert_int_equal(logged("storage GET /redirect-refused/a/", ""), 2);
}

static void test_redirects_that_are_refused(void **state)
{
    (void)state;
    assert_fetch_fails("redirect-loop/a", ERROR_INVALID, "10 redirects");
    assert_fetch_fails("redirect-file/a", ERROR_INVALID, "neither http nor https");
    assert_fetch_fails("redirect-user/a", ERROR_INVALID, "user name");
}

static void test_tls(void **state)
{
    struct repository from = { secure, "good/a" };
    struct registry_manifest manifest;
    struct error *error = NULL;
    struct buffer body = { 0 };
    (void)state;
    assert_int_equal(registry_get_manifest(client, &from, "tag", &manifest, NULL), 0);
    registry_manifest_free(&manifest);
    /* Never from https to http, with blobs or with passwords. */
    from.name = "redirect-plain/a";
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB, &body, &error), -1);
    assert_error(error, ERROR_INVALID, "from https to http");
    from.name = "token-user/tls";
    error = NULL;
    assert_int_equal(registry_get_manifest(client, &from, "tag", &manifest, &error), -1);
    assert_error(error, ERROR_INVALID, "from https to http");
    assert_int_equal(logged("tls", "token GET"), 0);
    /* A certificate that nobody vouches for; a server without TLS. */
    char *trusted = strdup(getenv("SSL_CERT_FILE"));
    unsetenv("SSL_CERT_FILE");
    struct registry_client *strict = registry_client_new(NULL, NULL);
    from.name = "good/a";
    error = NULL;
    assert_int_equal(registry_get_manifest(strict, &from, "tag", &manifest, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "certificate");
    char plain[32];
    snprintf(plain, sizeof plain, "0.0.0.0%s", strchr(registry, ':'));
    from.registry = plain;
    error = NULL;
    assert_int_equal(registry_get_manifest(strict, &from, "tag", &manifest, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "plain HTTP");
    registry_client_free(strict);
    setenv("SSL_CERT_FILE", trusted, 1);
    free(trusted);
}

/* --- authorization; each test begins without stored credentials */

static int fresh_client(void **state)
{
    (void)state;
    struct registry_options options = { .attempts = 3, .stall_seconds = 3, .connections = 4 };
    registry_client_free(client);
    write_config("{}");
    client = registry_client_new(&options, NULL);
    return client ? 0 : -1;
}

static void test_anonymous_tokens(void **state)
{
    (void)state;
    /* A token serves five requests here: the sixth 401 comes out of the blue. */
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(get_manifest("token/a", "tag", NULL), 0);
    assert_int_equal(logged("token GET", "repository%3Atoken%2Fa%3Apull"), 3);
    assert_int_equal(get_manifest("token/b", "tag", NULL), 0);
    assert_int_equal(logged("token GET", "repository%3Atoken%2Fb%3Apull"), 1);
    assert_manifest_fails("token-useless/a", "tag", ERROR_DENIED, "there are no credentials for");
}

static void test_one_token_request_for_many(void **state)
{
    enum { COUNT = 5 };
    static struct fetched fetched[COUNT];
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, COUNT };
    struct repository from = repository("token-shared/x");
    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        fetched[i] = (struct fetched){ .waiting = &waiting };
        registry_fetch_range(client, &from, &blob_digest, i, 10, 20000, on_done, &fetched[i]);
    }
    wait_for_all(&waiting);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_null(fetched[i].error);
        buffer_free(&fetched[i].body);
    }
    assert_int_equal(logged("token GET", "token-shared"), 1);
}

static void test_tokens_that_end(void **state)
{
    (void)state;
    assert_int_equal(get_manifest("token-brief/a", "tag", NULL), 0);
    usleep(1100000);
    assert_int_equal(get_manifest("token-brief/a", "tag", NULL), 0);
    /* The second was asked for in time, without a refused request. */
    assert_int_equal(logged("token GET", "token-brief"), 2);
    assert_int_equal(logged("registry GET /v2/token-brief/a/", "auth=-"), 1);
}

static void test_tokens_with_credentials(void **state)
{
    (void)state;
    assert_manifest_fails("token-user/a", "tag", ERROR_DENIED, "there are no credentials for");
    /* Somebody runs `docker login`: the client that is running takes note. */
    log_in(WRONG);
    assert_manifest_fails("token-user/a", "tag", ERROR_DENIED,
                          "the registry refused the credentials of 'wrong'");
    log_in(USER);
    assert_int_equal(get_manifest("token-user/a", "tag", NULL), 0);
    assert_int_equal(logged("registry", "auth=Basic") - logged("redirect", "auth=Basic"), 0);
}

static void test_identity_token(void **state)
{
    (void)state;
    log_in(IDENTITY);
    assert_int_equal(get_manifest("token-identity/a", "tag", NULL), 0);
    assert_int_equal(logged("token POST /token", "auth=-"), 1);
    assert_manifest_fails("basic/identity", "tag", ERROR_DENIED, "identity token");
}

static void test_basic(void **state)
{
    (void)state;
    assert_manifest_fails("basic/a", "tag", ERROR_DENIED, "run 'docker login 127.0.0.1:");
    log_in(WRONG);
    assert_manifest_fails("basic/a", "tag", ERROR_DENIED, "credentials of 'wrong'");
    log_in(USER);
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
    assert_manifest_fails("basic-echo/a", "tag", ERROR_DENIED, "DENIED");
}

static void test_token_servers_that_are_wrong(void **state)
{
    (void)state;
    assert_manifest_fails("token-broken/garbage", "tag", ERROR_INVALID, "no token");
    assert_manifest_fails("token-broken/newline", "tag", ERROR_INVALID, "no token");
    assert_manifest_fails("token-broken/large", "tag", ERROR_INVALID, "larger than");
    assert_manifest_fails("token-broken/failing", "tag", ERROR_UNREACHABLE, "token server");
    assert_manifest_fails("strange-challenge/a", "tag", ERROR_DENIED, "neither Basic nor Bearer");
}

/* --- referrers */

static char *referrers(const char *name, struct error **error)
{
    struct repository from = repository(name);
    struct buffer list = { 0 };
    if (registry_get_referrers(client, &from, &manifest_digest, "application/x.y+z", &list, error) <
        0)
        return NULL;
    assert_int_equal(buffer_append_u8(&list, 0), 0);
    return (char *)list.data;
}

static void assert_referrers(const char *name, const char *part)
{
    char *list = referrers(name, NULL);
    assert_non_null(list);
    if (!strstr(list, part)) fail_msg("no '%s' in: %s", part, list);
    free(list);
}

static void assert_no_referrers(const char *name)
{
    char *none = referrers(name, NULL);
    assert_string_equal(none, "");
    free(none);
}

static int has_referrers_api(const char *name)
{
    struct repository at = repository(name);
    return registry_has_referrers_api(client, &at, &manifest_digest, NULL);
}

static void test_referrers(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_referrers("referrers/a", "application/x.y+z");
    assert_referrers("referrers/paged", "page1");
    assert_referrers("referrers/paged", "page3");
    assert_null(referrers("referrers/endless", &error));
    assert_error(error, ERROR_INVALID, "pages");
    char digest[DIGEST_TEXT_SIZE];
    digest_format(&manifest_digest, digest);
    assert_referrers("referrers-tag/a", digest);
    assert_referrers("referrers-tag/html", digest);
    error = NULL;
    assert_null(referrers("referrers-tag/broken", &error));
    assert_error(error, ERROR_INVALID, "no image index");
    assert_no_referrers("referrers-none/a");
    assert_no_referrers("referrers-subject/a");
    assert_int_equal(has_referrers_api("referrers/a"), 1);
    assert_int_equal(has_referrers_api("referrers-tag/html"), 0);
    assert_int_equal(has_referrers_api("referrers-none/a"), 0);
    assert_int_equal(has_referrers_api("forbidden/a"), -1);
    error = NULL;
    assert_null(referrers("forbidden/a", &error));
    assert_error(error, ERROR_DENIED, "list referrers");
}

/* --- uploads */

static void test_uploads(void **state)
{
    struct repository to = repository("upload-elsewhere/a");
    struct error *error = NULL;
    (void)state;
    log_in(USER);
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, NULL), 0);
    assert_int_equal(logged("storage PUT /upload?state=secret&digest=sha256%3A", "auth=-"), 1);
    to.name = "upload-reset/a";
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, NULL), 0);
    assert_int_equal(logged("registry POST /v2/upload-reset/a/blobs/uploads/", ""), 2);
    to.name = "upload-lost-answer/a";
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, NULL), 0);
    assert_int_equal(logged("registry POST /v2/upload-lost-answer/a/blobs/uploads/", ""), 1);
    to.name = "upload-busy/a";
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "503");
    assert_int_equal(logged("registry POST /v2/upload-busy/a/blobs/uploads/", ""), 3);
    to.name = "manifest-met-another/a";
    assert_int_equal(registry_put_manifest(client, &to, "tag", "text/plain", "{}", 2, NULL, NULL),
                     0);
}

/* --- streams */

static ssize_t read_stream(const char *name, size_t step, unsigned pause_us, struct error **error)
{
    struct repository from = repository(name);
    struct blob_stream *stream;
    uint8_t *bytes = malloc(LARGE);
    size_t position = 0;
    ssize_t count = 0;
    assert_int_equal(registry_open_blob(client, &from, &large_digest, LARGE, &stream, NULL), 0);
    while (position < LARGE) {
        size_t wanted = LARGE - position < step ? LARGE - position : step;
        count = blob_stream_read(stream, bytes + position, wanted, error);
        if (count <= 0) break;
        position += (size_t)count;
        if (pause_us) usleep(pause_us);
    }
    if (count > 0) {
        count = blob_stream_read(stream, bytes, 1, error);
        assert_int_equal(count, 0);
        assert_memory_equal(bytes, large, LARGE);
    }
    blob_stream_close(stream);
    free(bytes);
    return count < 0 ? -1 : (ssize_t)position;
}

static void test_streams(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_int_equal(read_stream("good/a", 70000, 0, NULL), LARGE);
    assert_int_equal(read_stream("good/a", 300000, 10000, NULL), LARGE);
    /* More interruptions than one request has attempts, but each time it gets further. */
    assert_int_equal(read_stream("truncate-often/a", 70000, 0, NULL), LARGE);
    assert_true(logged("/v2/truncate-often/a/", "range=bytes=") >= 5);
    /* Tokens end in the middle. */
    assert_int_equal(read_stream("token-truncate/a", 70000, 0, NULL), LARGE);
    assert_true(logged("token GET", "token-truncate") >= 2);
    assert_int_equal(read_stream("reset/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "read blob");
    error = NULL;
    assert_int_equal(read_stream("forbidden/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_DENIED, "read blob");
    error = NULL;
    assert_int_equal(read_stream("short-whole/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_INVALID, "instead of");
}

static void test_streams_that_are_left(void **state)
{
    struct repository from = repository("good/a");
    struct blob_stream *streams[3];
    uint8_t byte;
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(registry_open_blob(client, &from, &large_digest, LARGE, &streams[i], NULL),
                         0);
    assert_int_equal(blob_stream_read(streams[0], &byte, 1, NULL), 1);
    assert_int_equal(byte, large[0]);
    blob_stream_close(streams[0]);
    blob_stream_close(streams[1]);
    /* The last one outlives the client: it has what was in its buffer, then an error. */
    registry_client_free(client);
    client = NULL;
    ssize_t count;
    struct error *error = NULL;
    while ((count = blob_stream_read(streams[2], &byte, 1, &error)) > 0)
        ;
    assert_int_equal(count, -1);
    assert_error(error, ERROR_CANCELLED, "cancelled");
    blob_stream_close(streams[2]);
    blob_stream_close(NULL);
    struct blob_stream *empty;
    assert_int_equal(fresh_client(state), 0);
    assert_int_equal(registry_open_blob(client, &from, &large_digest, 0, &empty, NULL), 0);
    assert_int_equal(blob_stream_read(empty, &byte, 1, NULL), 0);
    blob_stream_close(empty);
}

/* --- the end */

static void *ask_for_busy_manifest(void *context)
{
    struct registry_manifest manifest;
    struct repository from = repository("busy-long/a");
    struct error **error = context;
    registry_get_manifest(client, &from, "tag", &manifest, error);
    return NULL;
}

static void test_free_cancels(void **state)
{
    enum { COUNT = 20 };
    static struct fetched fetched[COUNT];
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, COUNT };
    struct repository from = repository("stall/free");
    struct error *error = NULL;
    pthread_t thread;
    (void)state;
    /* A helper that would answer in an hour is among what has to be ended. */
    char *helper = in_directory("docker-credential-slow");
    assert_int_equal(file_write_atomic(helper, "#!/bin/sh\nsleep 3600\n", 21, 0755, NULL), 0);
    write_config("{\"credsStore\":\"slow\"}");
    pthread_create(&thread, NULL, ask_for_busy_manifest, &error);
    while (logged("/v2/busy-long/a/manifests", "") == 0)
        usleep(10000);
    for (unsigned i = 0; i < COUNT; i++) {
        from.name = i % 4 ? "stall/free" : "basic/free";
        fetched[i] = (struct fetched){ .waiting = &waiting };
        registry_fetch_range(client, &from, &blob_digest, i, 10, 3600000, on_done, &fetched[i]);
    }
    while (logged("/v2/basic/free/", "") == 0)
        usleep(10000);
    registry_client_free(client);
    client = NULL;
    pthread_join(thread, NULL);
    assert_error(error, ERROR_CANCELLED, "cancelled");
    assert_int_equal(waiting.left, 0);
    for (unsigned i = 0; i < COUNT; i++)
        assert_error(fetched[i].error, ERROR_CANCELLED, "cancelled");
    unlink(helper);
    free(helper);
    assert_int_equal(fresh_client(state), 0);
}

static void test_statistics(void **state)
{
    struct registry_statistics statistics;
    (void)state;
    assert_int_equal(fetch("good/a", 0, 1000, 20000, NULL), 0);
    registry_client_statistics(client, &statistics);
    assert_int_equal(statistics.requests, 1);
    assert_int_equal(statistics.bytes_received, 1000);
    assert_int_equal(statistics.retries, 0);
}

static int set_up(void **state)
{
    if (faulty_registry_start() < 0) return -1;
    static const char manifest[] = "{\"schemaVersion\": 2, \"mediaType\": "
                                   "\"application/vnd.oci.image.manifest.v1+json\", "
                                   "\"layers\": []}";
    digest_of(manifest, sizeof manifest - 1, &manifest_digest);
    large = pattern_new(LARGE);
    digest_of(large, LARGE, &large_digest);
    return fresh_client(state);
}

static int tear_down(void **state)
{
    (void)state;
    free(large);
    return faulty_registry_stop();
}

#define fresh(test) cmocka_unit_test_setup(test, fresh_client)

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_manifest),
        fresh(test_blob),
        fresh(test_resolve),
        fresh(test_bodies_that_are_wrong),
        fresh(test_ranges),
        fresh(test_ranges_that_a_server_ignores),
        fresh(test_ranges_that_are_wrong),
        fresh(test_many_ranges_at_once),
        fresh(test_range_from_a_callback),
        fresh(test_faults_that_pass),
        fresh(test_faults_that_stay),
        fresh(test_nobody_listens),
        fresh(test_redirects),
        fresh(test_redirects_that_are_refused),
        fresh(test_tls),
        fresh(test_anonymous_tokens),
        fresh(test_one_token_request_for_many),
        fresh(test_tokens_that_end),
        fresh(test_tokens_with_credentials),
        fresh(test_identity_token),
        fresh(test_basic),
        fresh(test_token_servers_that_are_wrong),
        fresh(test_referrers),
        fresh(test_uploads),
        fresh(test_streams),
        fresh(test_streams_that_are_left),
        fresh(test_free_cancels),
        fresh(test_statistics),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
