/* For how long, and after what, a range is tried again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

#define PATIENCE ((struct range_time){ .timeout_ms = 120000, .retry_ms = 60000 })

static void test_patience_outlasts_faults(void **state)
{
    (void)state;
    /* Each fails more often than a request has attempts. */
    assert_int_equal(fetch_in_time("away-for-long/a", 0, 1000, PATIENCE, NULL), 0);
    assert_int_equal(logged("/v2/away-for-long/a/", ""), 6);
    assert_int_equal(fetch("away-for-long/b", 0, 1000, 60000, NULL), -1);
    assert_int_equal(logged("/v2/away-for-long/b/", ""), 3);
    /* It is the token server that is away. */
    assert_int_equal(fetch_in_time("token-away/a", 0, 1000, PATIENCE, NULL), 0);
}

static void test_patience_is_for_those_who_are_away(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_int_equal(fetch_in_time("forbidden/patient", 0, 1, PATIENCE, &error), -1);
    assert_error(error, ERROR_DENIED, "DENIED");
    assert_int_equal(logged("/v2/forbidden/patient/", ""), 1);
    error = NULL;
    assert_int_equal(fetch_in_time("unknown-scenario/a", 0, 1, PATIENCE, &error), -1);
    assert_error(error, ERROR_NOT_FOUND, "NAME_UNKNOWN");
    error = NULL;
    assert_int_equal(fetch_in_time("wrong-range/patient", 0, 1, PATIENCE, &error), -1);
    assert_error(error, ERROR_INVALID, "another part of the blob");
    assert_int_equal(logged("/v2/wrong-range/patient/", ""), 3);
    error = NULL;
    assert_int_equal(fetch_in_time("token-broken/garbage", 0, 1, PATIENCE, &error), -1);
    assert_error(error, ERROR_INVALID, "no token");
}

static void test_patience_ends(void **state)
{
    const struct range_time brief = { .timeout_ms = 60000, .retry_ms = 3000 };
    struct error *error = NULL;
    (void)state;
    assert_int_equal(fetch_in_time("failing/patient", 0, 1, brief, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "HTTP 500 (UNKNOWN: the message of UNKNOWN); tried");
    assert_true(logged("/v2/failing/patient/", "") > 3);
    /* It wants to be left alone for longer, and is asked once more at the end. */
    error = NULL;
    assert_int_equal(fetch_in_time("busy-long/patient", 0, 1, brief, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "HTTP 503");
    assert_int_equal(logged("/v2/busy-long/patient/", ""), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_patience_outlasts_faults),
        fresh(test_patience_is_for_those_who_are_away),
        fresh(test_patience_ends),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
