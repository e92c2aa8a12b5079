/* Ranges of blobs from a registry with faults (tests/fakes/registry_faults.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

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
        registry_fetch_range(client, &from, &digest, i * 1000, 1000,
                             (struct range_time){ 60000, 0 }, on_done, &fetched[i]);
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
        registry_fetch_range(client, &from, &blob_digest, 0, 100, (struct range_time){ 20000, 0 },
                             on_link, chain);
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
    registry_fetch_range(client, &from, &blob_digest, 0, 100, (struct range_time){ 20000, 0 },
                         on_link, &chain);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_ranges),
        fresh(test_ranges_that_a_server_ignores),
        fresh(test_ranges_that_are_wrong),
        fresh(test_many_ranges_at_once),
        fresh(test_range_from_a_callback),
        fresh(test_faults_that_pass),
        fresh(test_faults_that_stay),
        fresh(test_redirects),
        fresh(test_redirects_that_are_refused),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
