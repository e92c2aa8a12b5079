/* Several ranges of a blob in one request (tests/fakes/registry_faults.py answers). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

enum { COUNT = 5 };

/* Not in the order of the blob, and not all beside each other. */
static const struct place {
    uint64_t offset;
    size_t length;
} apart[COUNT] = { { 100000, 30000 }, { 5, 1 }, { 200000, 65536 }, { 60000, 40000 }, { 7, 5000 } };

/* Parts of a blob that begin and end within a byte share it. */
static const struct place neighbours[COUNT] = {
    { 1000, 1000 }, { 1999, 1000 }, { 10, 10 }, { 2998, 10 }, { 5000, 1 }
};

static const struct place *places = apart;
static struct fetched fetched[COUNT];
static unsigned order[COUNT], arrived; /* which were done first */

/* The even ones come in pieces. */
static void on_part(void *context, const void *data, size_t length)
{
    struct fetched *one = context;
    assert_false(one->done);
    assert_int_equal(buffer_append(&one->body, data, length), 0);
}

static void on_range(void *context, struct buffer *body, struct error *error)
{
    struct fetched *one = context;
    struct buffer came = one->body;
    order[arrived++] = (unsigned)(one - fetched);
    if (came.data && body) {
        assert_int_equal(body->length, 0);
        *body = came;
        one->body = (struct buffer){ 0 };
    }
    on_done(context, body, error);
}

static void fetch_places(const char *name, struct range_time time)
{
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, COUNT };
    struct repository from = repository(name);
    struct registry_range ranges[COUNT];
    arrived = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        fetched[i] = (struct fetched){ .waiting = &waiting };
        ranges[i] = (struct registry_range){ places[i].offset, places[i].length,
                                             i % 2 ? NULL : on_part, on_range, &fetched[i] };
    }
    registry_fetch_ranges(client, &from, &blob_digest, ranges, COUNT, time);
    memset(ranges, 0, sizeof ranges);
    wait_for_all(&waiting);
}

/* `requests` were needed; 0: however many. */
static void assert_fetches_places(const char *name, unsigned requests)
{
    char *path = format_text("/v2/%s/", name);
    unsigned before = logged(path, "");
    fetch_places(name, (struct range_time){ 20000, 0 });
    for (unsigned i = 0; i < COUNT; i++) {
        if (fetched[i].error) fail_msg("%s: %s", name, error_message(fetched[i].error));
        assert_int_equal(fetched[i].body.length, places[i].length);
        assert_memory_equal(fetched[i].body.data, blob + places[i].offset, places[i].length);
        buffer_free(&fetched[i].body);
    }
    if (requests && logged(path, "") - before != requests)
        fail_msg("%s: %u requests", name, logged(path, "") - before);
    free(path);
}

static void test_one_request(void **state)
{
    (void)state;
    assert_fetches_places("several/a", 1);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(order[i], i);
    assert_int_equal(logged("/v2/several/a/", "range=bytes=100000-129999,5-5,200000-265535,"
                                              "60000-99999,7-5006"),
                     1);
    assert_true(registry_takes_ranges(client));
    assert_fetches_places("several-shuffled/a", 1);
    assert_int_equal(order[0], COUNT - 1);
    assert_fetches_places("several-joined/a", 1);
    assert_true(registry_takes_ranges(client));
}

/* All were asked for again, one after the other, and at once the next time. */
static void assert_learns(const char *name, unsigned requests)
{
    registry_client_free(client);
    client = registry_client_new(NULL, NULL);
    assert_non_null(client);
    wait_for_late_answers(client);
    assert_true(registry_takes_ranges(client));
    assert_fetches_places(name, requests);
    assert_false(registry_takes_ranges(client));
    assert_fetches_places(name, COUNT);
}

static void test_hosts_that_give_one(void **state)
{
    (void)state;
    assert_learns("good/several", 1 + COUNT); /* it gives the whole blob */
    assert_learns("several-refused/a", 1 + COUNT);
    assert_learns("several-first/a", COUNT);
    /* With so much between them the whole is no answer to the question. */
    assert_learns("several-in-one/a", 1 + COUNT);
}

static void test_answers_that_are_wrong(void **state)
{
    (void)state;
    assert_learns("several-twice/a", COUNT);
    assert_learns("several-others/a", 1 + COUNT);
    assert_learns("several-cut/a", 1 + COUNT);
    assert_learns("several-long/a", COUNT);
    assert_learns("several-nothing/a", 1 + COUNT);
    assert_learns("several-no-boundary/a", 1 + COUNT);
    assert_learns("several-endless/a", 1 + COUNT);
}

static void test_ranges_that_overlap(void **state)
{
    (void)state;
    places = neighbours;
    assert_fetches_places("several/overlapping", 2);
    assert_int_equal(
        logged("/v2/several/overlapping/", "range=bytes=1000-1999,10-19,2998-3007,5000-5000"), 1);
    assert_learns("good/overlapping", 1 + COUNT);
    places = apart;
}

/* Two in each answer. */
static void test_some_of_them(void **state)
{
    (void)state;
    assert_fetches_places("several-some/a", 3);
    assert_true(registry_takes_ranges(client));
}

static void test_faults_that_pass(void **state)
{
    (void)state;
    /* What had arrived is not asked for again; who broke off is asked for one, then for the rest.
     */
    assert_fetches_places("several-truncated-once/a", 3);
    assert_int_equal(logged("/v2/several-truncated-once/a/", "range=bytes=200000-265535,"), 1);
    assert_fetches_places("several-bad-gateway-once/a", 3);
    /* Who hangs up at the sight of several gives them all in the end (and libcurl itself repeats
     * what failed on a connection that it had kept). */
    assert_fetches_places("several-reset/a", 0);
    /* Who has all waits for no end. */
    assert_fetches_places("several-hanging/a", 1);
}

static void assert_all_fail(const char *name, enum error_kind kind, const char *part)
{
    fetch_places(name, (struct range_time){ 5000, 0 });
    for (unsigned i = 0; i < COUNT; i++)
        assert_error(fetched[i].error, kind, part);
}

static void test_faults_that_stay(void **state)
{
    (void)state;
    assert_all_fail("forbidden/several", ERROR_DENIED, "DENIED");
    assert_all_fail("unknown-scenario/several", ERROR_NOT_FOUND, "NAME_UNKNOWN");
    assert_all_fail("failing/several", ERROR_UNREACHABLE, "HTTP 500");
    assert_all_fail("Bad Name", ERROR_INVALID, "repository");
    assert_true(registry_takes_ranges(client));
}

static void fetch_two(struct registry_range *ranges, const char *part)
{
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 2 };
    struct repository from = repository("several/wrong");
    for (unsigned i = 0; i < 2; i++) {
        fetched[i] = (struct fetched){ .waiting = &waiting };
        ranges[i].done = on_done;
        ranges[i].context = &fetched[i];
    }
    registry_fetch_ranges(client, &from, &blob_digest, ranges, 2, (struct range_time){ 5000, 0 });
    wait_for_all(&waiting);
    for (unsigned i = 0; i < 2; i++)
        assert_error(fetched[i].error, ERROR_INVALID, part);
}

static void test_what_cannot_be_asked(void **state)
{
    (void)state;
    fetch_two((struct registry_range[]){ { .offset = 10, .length = 10 }, { .offset = 100 } },
              "no valid range");
    assert_int_equal(logged("/v2/several/wrong/", ""), 0);
}

static void test_redirects(void **state)
{
    (void)state;
    log_in(USER);
    /* The storage is asked, which gives the whole blob, and again when its signature has ended. */
    assert_fetches_places("redirect/several", 3);
    assert_int_equal(logged("storage GET /redirect/several/", "range=bytes=100000-129999,5-5,"), 1);
    assert_int_equal(logged("storage GET /redirect/several/", ""), 1 + COUNT + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_one_request),
        fresh(test_hosts_that_give_one),
        fresh(test_answers_that_are_wrong),
        fresh(test_ranges_that_overlap),
        fresh(test_some_of_them),
        fresh(test_faults_that_pass),
        fresh(test_faults_that_stay),
        fresh(test_what_cannot_be_asked),
        fresh(test_redirects),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
