/* Authorization, as registries and token servers ask for it (tests/fakes/registry_faults.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

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
        registry_fetch_range(client, &from, &blob_digest, i, 10, (struct range_time){ 20000, 0 },
                             on_done, &fetched[i]);
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
    usleep(3100000);
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
    assert_int_equal(logged("registry", "auth=Basic"), 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_anonymous_tokens),
        fresh(test_one_token_request_for_many),
        fresh(test_tokens_that_end),
        fresh(test_tokens_with_credentials),
        fresh(test_identity_token),
        fresh(test_basic),
        fresh(test_token_servers_that_are_wrong),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
