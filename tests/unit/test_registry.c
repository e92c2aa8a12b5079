/* Manifests, blobs, referrers and uploads at a registry with faults
 * (tests/fakes/registry_faults.py), and the end of a client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

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
        registry_fetch_range(client, &from, &blob_digest, i, 10, (struct range_time){ 3600000, 0 },
                             on_done, &fetched[i]);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_manifest),       fresh(test_blob),
        fresh(test_resolve),        fresh(test_bodies_that_are_wrong),
        fresh(test_nobody_listens), fresh(test_tls),
        fresh(test_referrers),      fresh(test_uploads),
        fresh(test_free_cancels),   fresh(test_statistics),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
