/* Answers that take far longer than others of their host, over HTTP on the loopback interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "fetcher/host-internal.h"
#include "fetcher/registry.h"
#include "tests/unit/range_server.h"
#include "tests/unit/temporary_directory.h"

#define BLOB  (1u << 20)
#define RANGE 50000u
#define KNOWN 10u     /* answers, after which the host's pace is known */
#define AT    300000u /* of the blob; what the tests ask for begins here or behind */

static const struct digest digest = { { 7 } };

struct fixture {
    char *directory;
    char registry[40];
    uint8_t *blob;
    struct range_server servers[2]; /* the registry, and a mirror that stands in for it */
    struct registry_client *client;
};

/* One range, and what has come of it. */
struct fetched {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint8_t bytes[RANGE];
    size_t length;
    bool done, failed;
};

static void on_part(void *context, const void *data, size_t length)
{
    struct fetched *fetched = context;
    pthread_mutex_lock(&fetched->lock);
    if (length <= RANGE - fetched->length)
        memcpy(fetched->bytes + fetched->length, data, length);
    else
        fetched->failed = true;
    fetched->length += length;
    pthread_mutex_unlock(&fetched->lock);
}

static void on_done(void *context, struct buffer *body, struct error *error)
{
    struct fetched *fetched = context;
    (void)body;
    pthread_mutex_lock(&fetched->lock);
    fetched->done = true;
    fetched->failed = fetched->failed || error;
    pthread_cond_signal(&fetched->changed);
    pthread_mutex_unlock(&fetched->lock);
    error_free(error);
}

static struct fetched *fetched_new(void)
{
    struct fetched *fetched = calloc(1, sizeof *fetched);
    assert_non_null(fetched);
    pthread_mutex_init(&fetched->lock, NULL);
    pthread_cond_init(&fetched->changed, NULL);
    return fetched;
}

static struct fetched *begin(const struct fixture *fixture, uint64_t offset)
{
    const struct repository from = { fixture->registry, "test" };
    struct fetched *fetched = fetched_new();
    registry_stream_range(fixture->client, &from, &digest, offset, RANGE,
                          (struct range_time){ 60000, 50000 }, on_part, on_done, fetched);
    return fetched;
}

static void expect(const struct fixture *fixture, struct fetched *fetched, uint64_t offset)
{
    pthread_mutex_lock(&fetched->lock);
    while (!fetched->done)
        pthread_cond_wait(&fetched->changed, &fetched->lock);
    pthread_mutex_unlock(&fetched->lock);
    assert_false(fetched->failed);
    assert_int_equal(fetched->length, RANGE);
    assert_memory_equal(fetched->bytes, fixture->blob + offset, RANGE);
    pthread_mutex_destroy(&fetched->lock);
    pthread_cond_destroy(&fetched->changed);
    free(fetched);
}

static void fetch(const struct fixture *fixture, uint64_t offset)
{
    expect(fixture, begin(fixture, offset), offset);
}

/* From ranges in front of those that the tests are about. On a busy machine some of them may be
 * asked for twice, which leaves less for the others. */
static void learn_pace(const struct fixture *fixture)
{
    for (unsigned i = 0; i < KNOWN || fixture->client->repeats.spent > 0; i++)
        fetch(fixture, (uint64_t)i % KNOWN * 1000);
}

static void use_client(struct fixture *fixture)
{
    struct registry_options options = { .hosts_directory = fixture->directory,
                                        .mirror_seconds = 3600,
                                        .stall_seconds = 3600,
                                        .connections = 16 };
    registry_client_free(fixture->client);
    fixture->client = registry_client_new(&options, NULL);
    assert_non_null(fixture->client);
}

/* The second server is asked first, the registry stands behind it. */
static void use_mirror(struct fixture *fixture)
{
    char *place = NULL, *path = NULL, *text = NULL;
    assert_true(asprintf(&place, "%s/%s", fixture->directory, fixture->registry) > 0);
    assert_true(asprintf(&path, "%s/hosts.toml", place) > 0);
    assert_true(asprintf(&text, "[host.\"http://127.0.0.1:%u\"]\n", fixture->servers[1].port) > 0);
    assert_int_equal(directory_make(place, 0755, NULL), 0);
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
    free(place);
    free(path);
    free(text);
    use_client(fixture);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    fixture->blob = malloc(BLOB);
    for (size_t i = 0; i < BLOB; i++)
        fixture->blob[i] = (uint8_t)(i * 31 + i / 977);
    for (unsigned i = 0; i < 2; i++) {
        fixture->servers[i].blob = fixture->blob;
        fixture->servers[i].length = BLOB;
        fixture->servers[i].stall_from = AT;
        range_server_start(&fixture->servers[i]);
    }
    snprintf(fixture->registry, sizeof fixture->registry, "127.0.0.1:%u", fixture->servers[0].port);
    use_client(fixture);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 2; i++)
        atomic_store(&fixture->servers[i].stall_next, -1);
    registry_client_free(fixture->client);
    range_server_stop(&fixture->servers[0]);
    range_server_stop(&fixture->servers[1]);
    temporary_directory_remove(fixture->directory);
    free(fixture->blob);
    free(fixture);
    return 0;
}

/* For ranges at AT or behind. */
static unsigned asked(const struct fixture *fixture, unsigned server)
{
    return atomic_load(&fixture->servers[server].behind);
}

/* While nothing is under way. The mirror comes before the registry there. */
static bool is_distrusted(const struct fixture *fixture, unsigned server)
{
    const struct registry *registry = TAILQ_FIRST(&fixture->client->registries);
    return registry->hosts[1 - server]->distrusted;
}

/* The server gives the bytes of a stalled answer when it is told so, and no test here does. */
static void a_stalled_answer_is_not_waited_for(void **state)
{
    struct fixture *fixture = *state;
    learn_pace(fixture);
    fixture->servers[0].stall_next = 1;
    fetch(fixture, AT);
    assert_int_equal(asked(fixture, 0), 2);
}

/* On a busy machine nothing may have come when it is asked again, which tells nothing. */
static void what_has_come_is_not_asked_for_again(void **state)
{
    struct fixture *fixture = *state;
    size_t first = AT;
    for (unsigned i = 0; i < 20 && first == AT; i++) {
        learn_pace(fixture);
        fixture->servers[0].stall_at = RANGE / 2;
        fixture->servers[0].stall_next = 1;
        fetch(fixture, AT);
        assert_int_equal(asked(fixture, 0), 2 * i + 2);
        first = fixture->servers[0].first;
    }
    assert_int_equal(first, AT + RANGE / 2);
}

static void it_is_asked_for_before_anything_is_known(void **state)
{
    struct fixture *fixture = *state;
    fixture->servers[0].stall_next = 1;
    fetch(fixture, AT);
    assert_int_equal(asked(fixture, 0), 2);
}

static void another_host_is_asked_where_there_is_one(void **state)
{
    struct fixture *fixture = *state;
    use_mirror(fixture);
    learn_pace(fixture);
    fixture->servers[1].stall_next = 1;
    fetch(fixture, AT);
    assert_int_equal(asked(fixture, 0), 1);
    assert_int_equal(asked(fixture, 1), 1);
}

/* An answer that was under way, and is as wrong as the others, is no reason to trust it again. */
static void who_gave_wrong_bytes_stays_aside(void **state)
{
    struct fixture *fixture = *state;
    use_mirror(fixture);
    learn_pace(fixture);
    fixture->servers[0].stalls = fixture->servers[1].stalls = true;
    struct fetched *fetched = begin(fixture, AT);
    while (asked(fixture, 1) == 0)
        usleep(1000);
    registry_report_damage(fixture->client, &digest, 0, 1000);
    fixture->servers[1].stalls = false;
    expect(fixture, fetched, AT);
    fixture->servers[0].stalls = false;
    fetch(fixture, AT + RANGE);
    assert_int_equal(asked(fixture, 1), 1);
}

/* Not even where the other one stalls. */
static void who_gave_wrong_bytes_is_asked_in_nobodys_place(void **state)
{
    struct fixture *fixture = *state;
    use_mirror(fixture);
    learn_pace(fixture);
    registry_report_damage(fixture->client, &digest, 0, 1000);
    fixture->servers[0].stall_next = 1;
    fetch(fixture, AT);
    assert_int_equal(asked(fixture, 0), 2);
    assert_int_equal(asked(fixture, 1), 0);
}

/* The answer of the mirror stalls in the middle; what is missing comes from the registry. */
static void wrong_bytes_are_his_who_gave_them(void **state)
{
    struct fixture *fixture = *state;
    use_mirror(fixture);
    learn_pace(fixture);
    fixture->servers[1].stall_at = RANGE / 2;
    fixture->servers[1].stall_next = 1;
    fetch(fixture, AT);
    bool mirror_gave_some = fixture->servers[0].first > AT;
    registry_report_damage(fixture->client, &digest, AT + RANGE - 1, 1);
    fetch(fixture, 0);
    assert_true(is_distrusted(fixture, 0));
    assert_false(is_distrusted(fixture, 1));
    registry_report_damage(fixture->client, &digest, AT, 1);
    fetch(fixture, 0);
    assert_int_equal(is_distrusted(fixture, 1), mirror_gave_some);
}

/* The first answer may be late only, and the second one fail. */
static void the_first_answer_counts_if_it_comes_first(void **state)
{
    struct fixture *fixture = *state;
    learn_pace(fixture);
    fixture->servers[0].stall_next = 2;
    struct fetched *fetched = begin(fixture, AT);
    while (asked(fixture, 0) < 2)
        usleep(1000);
    fixture->servers[0].stall_next = -1;
    expect(fixture, fetched, AT);
    fetch(fixture, 0);
}

/* Where everything is slow, more questions make it slower. */
static void few_are_asked_twice(void **state)
{
    enum { AT_ONCE = 12, TWICE = 4 };
    struct fixture *fixture = *state;
    struct fetched *fetched[AT_ONCE];
    learn_pace(fixture);
    fixture->servers[0].stall_next = 1000;
    for (unsigned i = 0; i < AT_ONCE; i++)
        fetched[i] = begin(fixture, AT + i * 10000u);
    while (asked(fixture, 0) < AT_ONCE + TWICE)
        usleep(1000);
    usleep(300000); /* time in which it could do otherwise */
    fixture->servers[0].stall_next = -1;
    for (unsigned i = 0; i < AT_ONCE; i++)
        expect(fixture, fetched[i], AT + i * 10000u);
    assert_int_equal(asked(fixture, 0), AT_ONCE + TWICE);
}

/* What stalls is one of several that were asked for together. */
static void several_that_stall_are_asked_for_again(void **state)
{
    enum { SEVERAL = 3 };
    struct fixture *fixture = *state;
    const struct repository from = { fixture->registry, "test" };
    struct fetched *fetched[SEVERAL];
    struct registry_range ranges[SEVERAL];
    learn_pace(fixture);
    fixture->servers[0].stall_next = 1;
    for (unsigned i = 0; i < SEVERAL; i++) {
        fetched[i] = fetched_new();
        ranges[i] = (struct registry_range){ AT + 200000 * i, RANGE, on_part, on_done, fetched[i] };
    }
    registry_fetch_ranges(fixture->client, &from, &digest, ranges, SEVERAL,
                          (struct range_time){ 60000, 0 });
    for (unsigned i = 0; i < SEVERAL; i++)
        expect(fixture, fetched[i], AT + 200000 * i);
    assert_true(asked(fixture, 0) > 1);
}

static void the_client_may_go_while_both_are_awaited(void **state)
{
    struct fixture *fixture = *state;
    learn_pace(fixture);
    fixture->servers[0].stall_next = 2;
    struct fetched *fetched = begin(fixture, AT);
    while (asked(fixture, 0) < 2)
        usleep(1000);
    registry_client_free(fixture->client);
    fixture->client = NULL;
    assert_true(fetched->done && fetched->failed);
    free(fetched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_stalled_answer_is_not_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_come_is_not_asked_for_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_is_asked_for_before_anything_is_known, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(another_host_is_asked_where_there_is_one, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_gave_wrong_bytes_stays_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_gave_wrong_bytes_is_asked_in_nobodys_place, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(wrong_bytes_are_his_who_gave_them, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_answer_counts_if_it_comes_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(few_are_asked_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(several_that_stall_are_asked_for_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_client_may_go_while_both_are_awaited, set_up,
                                        tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
