/* Chunks that nobody waits for: they are stored, they stay behind those that somebody waits for,
 * and whoever named them hears of each once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/full_disk.h"
#include "tests/unit/named_chunks.h"
#include "tests/unit/noise_device.h"

static struct asked *ask_chunk(const struct noise_device *fixture, uint32_t chunk)
{
    return ask(fixture->device, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
}

static void expect_chunk(const struct noise_device *fixture, struct asked *asked, uint32_t chunk)
{
    expect_bytes_of(asked, fixture->layer.stream, STREAM, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
}

static uint32_t chunk_of_request(unsigned request)
{
    return (uint32_t)(fake.log[request].offset / CHUNK_SIZE);
}

/* ---- being stored ---- */

static void named_chunks_are_on_the_node_afterwards(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks named;
    uint32_t chunks;
    uint64_t bytes;
    named_chunks_start(&named, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, CHUNKS);
    named_chunks_wait(&named, CHUNKS);
    assert_int_equal(named_chunks_with(&named, 0), CHUNKS);
    layer_device_presence(fixture->device, &chunks, &bytes);
    assert_int_equal(chunks, CHUNKS);
    assert_true(fake_requests(0) < CHUNKS / 8); /* neighbours came together */
    fake_be_unreachable(true);
    for (uint32_t i = 0; i < CHUNKS; i += 7)
        expect_chunk(fixture, ask_chunk(fixture, i), i);
}

static void chunks_of_an_earlier_server_cost_nothing(void **state)
{
    struct noise_device *fixture = *state;
    struct named_chunks first, second;
    named_chunks_start(&first, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all, 300);
    named_chunks_wait(&first, 300);
    noise_device_reopen(fixture, NULL);
    unsigned requests = fake_requests(0);
    fake_hold(true);
    named_chunks_start(&second, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all, 300);
    named_chunks_wait(&second, 300);
    fake_hold(false);
    assert_int_equal(named_chunks_with(&second, 0), 300);
    assert_int_equal(fake_requests(0), requests);
    for (uint32_t i = 0; i < 300; i++)
        assert_int_equal(chunk_state(fixture->device, i), CHUNK_ABSENT); /* not hashed yet */
}

static void chunk_may_be_named_by_everybody_at_once(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks profile, fill;
    fake_hold(true);
    named_chunks_start(&fill, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, 20);
    fake_wait_waiting(1);
    named_chunks_start(&profile, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all, 20);
    struct asked *asked = ask_chunk(fixture, 5);
    fake_hold(false);
    expect_chunk(fixture, asked, 5);
    named_chunks_wait(&profile, 20);
    named_chunks_wait(&fill, 20);
    assert_int_equal(named_chunks_with(&profile, 0), 20);
    assert_int_equal(named_chunks_with(&fill, 0), 20);
    struct data_path_statistics statistics;
    data_path_statistics(fixture->path, &statistics);
    assert_int_equal(statistics.chunks_fetched, 20);
}

/* Nobody waits until all that another has named is here. */
static void supplies_of_a_kind_are_served_side_by_side(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks first, second;
    fake_hold(true);
    named_chunks_start(&first, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, CHUNKS);
    fake_wait_waiting(1);
    named_chunks_start(&second, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, CHUNKS);
    fake_hold(false);
    named_chunks_wait(&second, CHUNKS);
    named_chunks_wait(&first, CHUNKS);
    assert_int_equal(named_chunks_with(&first, 0), CHUNKS);
    assert_int_equal(named_chunks_with(&second, 0), CHUNKS);
    struct data_path_statistics statistics;
    data_path_statistics(fixture->path, &statistics);
    assert_int_equal(statistics.chunks_fetched, CHUNKS);
}

static void supply_goes_on_when_another_was_taken_away(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks first, second;
    fake_hold(true);
    named_chunks_start(&first, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all, 40);
    fake_wait_waiting(1);
    named_chunks_start(&second, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all + 20,
                       40);
    data_path_remove_supply(fixture->path, first.supply);
    unsigned returned = first.returned;
    fake_hold(false);
    named_chunks_wait(&second, 40);
    assert_int_equal(named_chunks_with(&second, 0), 40);
    assert_int_equal(first.returned, returned);
}

/* ---- the order ---- */

static void readers_go_first_then_the_profile_then_what_is_filled(void **state)
{
    struct noise_device *fixture = *state;
    static const uint32_t filled[] = { 100, 110, 120 }, profiled[] = { 200, 210 };
    struct named_chunks profile, fill;
    noise_device_reopen(fixture, &(struct data_path_options){ .ranges_in_flight = 1 });
    fake_hold(true);
    named_chunks_start(&fill, fixture->path, SUPPLY_FILL, fixture->device, filled, 3);
    fake_wait_waiting(1);
    named_chunks_start(&profile, fixture->path, SUPPLY_PROFILE, fixture->device, profiled, 2);
    struct asked *first = ask_chunk(fixture, 300), *second = ask_chunk(fixture, 310);
    struct asked *urgent = ask_chunk(fixture, 120); /* was to be filled */
    fake_hold(false);
    expect_chunk(fixture, first, 300);
    expect_chunk(fixture, second, 310);
    expect_chunk(fixture, urgent, 120);
    named_chunks_wait(&fill, 3);
    named_chunks_wait(&profile, 2);
    static const uint32_t expected[] = { 100, 300, 310, 120, 200, 210, 110 };
    assert_int_equal(fake_requests(0), 7);
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(chunk_of_request(i), expected[i]);
}

static void ranges_are_left_for_readers(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks profile, fill;
    uint32_t scattered[120];
    for (uint32_t i = 0; i < 120; i++)
        scattered[i] = 10 * i; /* too far apart for one range */
    fake_hold(true);
    named_chunks_start(&profile, fixture->path, SUPPLY_PROFILE, fixture->device, scattered, 60);
    named_chunks_start(&fill, fixture->path, SUPPLY_FILL, fixture->device, scattered + 60, 60);
    fake_wait_waiting(1);
    unsigned before = fake_requests(0);
    struct asked *asked = ask_chunk(fixture, 5);
    fake_wait_waiting(before + 1);
    assert_int_equal(chunk_of_request(before), 5);
    fake_hold(false);
    expect_chunk(fixture, asked, 5);
    named_chunks_wait(&profile, 60);
    named_chunks_wait(&fill, 60);
}

static void small_gaps_do_not_cost_a_request(void **state)
{
    const struct noise_device *fixture = *state;
    static const uint32_t chunks[] = { 20, 22, 25, 29, 50 };
    struct named_chunks named;
    fake.single = true;                                /* else a request may ask for all of them */
    expect_chunk(fixture, ask_chunk(fixture, 27), 27); /* nothing is fetched twice */
    named_chunks_start(&named, fixture->path, SUPPLY_PROFILE, fixture->device, chunks, 5);
    named_chunks_wait(&named, 5);
    assert_int_equal(fake_requests(0), 4);
    assert_int_equal(fake.log[1].offset, 20 * CHUNK_SIZE);
    assert_int_equal(fake.log[1].length, 6 * CHUNK_SIZE);
    expect_chunk(fixture, ask_chunk(fixture, 24), 24);
    assert_int_equal(fake_requests(0), 4);
}

static void what_is_fetched_ahead_leaves_memory_to_readers(void **state)
{
    struct noise_device *fixture = *state;
    struct named_chunks named;
    enum { LIMIT = 16 * CHUNK_SIZE };
    noise_device_reopen(fixture, &(struct data_path_options){ .memory_limit = LIMIT });
    named_chunks_start(&named, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all,
                       CHUNKS);
    for (uint32_t i = 0; i < CHUNKS; i += 50)
        expect_chunk(fixture, ask_chunk(fixture, i), i);
    named_chunks_wait(&named, CHUNKS);
    assert_true(fixture->path->memory.peak <= LIMIT);
}

static void bound_of_what_is_filled_holds_up_nobody_else(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks fill, profile;
    data_path_set_fill_rate(fixture->path, 1);
    named_chunks_start(&fill, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, 100);
    named_chunks_wait(&fill, 1);
    named_chunks_start(&profile, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all + 200,
                       10);
    named_chunks_wait(&profile, 10);
    expect_chunk(fixture, ask_chunk(fixture, 500), 500);
    assert_int_equal(named_chunks_with(&fill, 0), 1);
    data_path_set_fill_rate(fixture->path, 0);
    named_chunks_wait(&fill, 100);
}

/* ---- what cannot be had ---- */

static void what_the_registry_cannot_give_comes_back_once(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks named;
    fake_be_unreachable(true);
    named_chunks_start(&named, fixture->path, SUPPLY_PROFILE, fixture->device, fixture->all, 100);
    named_chunks_wait(&named, 100);
    assert_int_equal(named_chunks_with(&named, -EIO), 100);
    assert_null(data_path_last_error(fixture->path, NULL)); /* no reader has seen an error */
    fake_be_unreachable(false);
    expect_chunk(fixture, ask_chunk(fixture, 50), 50);
}

static void what_the_disk_does_not_take_comes_back_once(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks named;
    const struct rlimit before = full_disk_begin(4 * CHUNK_SIZE);
    named_chunks_start(&named, fixture->path, SUPPLY_FILL, fixture->device, fixture->all + 10, 100);
    named_chunks_wait(&named, 100);
    full_disk_end(before);
    assert_int_equal(named_chunks_with(&named, 0), 0);
    assert_true(fake_requests(0) <= 100);
    assert_int_equal(fixture->path->kept_bytes, 0); /* nobody has asked for them */
}

static void chunk_that_does_not_exist_comes_back(void **state)
{
    const struct noise_device *fixture = *state;
    static const uint32_t chunks[] = { 3, CHUNKS, 4 };
    struct named_chunks named;
    named_chunks_start(&named, fixture->path, SUPPLY_PROFILE, fixture->device, chunks, 3);
    named_chunks_wait(&named, 3);
    assert_int_equal(named.results[CHUNKS], -EINVAL);
    assert_int_equal(named_chunks_with(&named, 0), 2);
}

static void reader_goes_away_and_the_supply_still_gets_its_chunk(void **state)
{
    struct noise_device *fixture = *state;
    static const uint32_t chunks[] = { 10, 20 };
    struct named_chunks named;
    noise_device_reopen(
        fixture, &(struct data_path_options){ .read_timeout_ms = 50, .ranges_in_flight = 1 });
    fake_hold(true);
    named_chunks_start(&named, fixture->path, SUPPLY_FILL, fixture->device, chunks, 2);
    expect_failure(ask_chunk(fixture, 10));
    expect_failure(ask_chunk(fixture, 20));
    fake_hold(false);
    named_chunks_wait(&named, 2);
    assert_int_equal(named_chunks_with(&named, 0), 2);
}

/* ---- ending ---- */

static void supply_that_was_taken_away_hears_nothing(void **state)
{
    const struct noise_device *fixture = *state;
    for (unsigned round = 0; round < 20; round++) {
        struct named_chunks named;
        fake_hold(round % 2 == 0);
        named_chunks_start(&named, fixture->path, SUPPLY_PROFILE, fixture->device,
                           fixture->all + 50 * (size_t)round, 50);
        fake_wait_waiting(round % 2 == 0 ? 1 : 0);
        data_path_remove_supply(fixture->path, named.supply);
        unsigned returned = named.returned;
        fake_hold(false);
        expect_chunk(fixture, ask_chunk(fixture, 50 * round), 50 * round);
        assert_int_equal(named.returned, returned);
    }
}

static void closing_gives_all_chunks_back(void **state)
{
    struct noise_device *fixture = *state;
    struct named_chunks named;
    fake_hold(true);
    named_chunks_start(&named, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, 40);
    fake_wait_waiting(1);
    struct asked *asked = ask_chunk(fixture, 3);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    expect_failure(asked);
    assert_int_equal(named.returned, 40);
    assert_int_equal(named_chunks_with(&named, -ECANCELED), 40);
    fake_hold(false);
    data_path_remove_supply(fixture->path, named.supply);
}

static void supply_is_asked_again_after_a_wake(void **state)
{
    const struct noise_device *fixture = *state;
    struct named_chunks named;
    named_chunks_start(&named, fixture->path, SUPPLY_FILL, fixture->device, fixture->all, 0);
    expect_chunk(fixture, ask_chunk(fixture, 900), 900);
    named.count = 30;
    data_path_wake(fixture->path);
    named_chunks_wait(&named, 30);
    assert_int_equal(named_chunks_with(&named, 0), 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(named_chunks_are_on_the_node_afterwards,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(chunks_of_an_earlier_server_cost_nothing,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(chunk_may_be_named_by_everybody_at_once,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(supplies_of_a_kind_are_served_side_by_side,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(supply_goes_on_when_another_was_taken_away,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(readers_go_first_then_the_profile_then_what_is_filled,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(ranges_are_left_for_readers, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(small_gaps_do_not_cost_a_request, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(what_is_fetched_ahead_leaves_memory_to_readers,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(bound_of_what_is_filled_holds_up_nobody_else,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(what_the_registry_cannot_give_comes_back_once,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(what_the_disk_does_not_take_comes_back_once,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(chunk_that_does_not_exist_comes_back, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(reader_goes_away_and_the_supply_still_gets_its_chunk,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(supply_that_was_taken_away_hears_nothing,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(closing_gives_all_chunks_back, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(supply_is_asked_again_after_a_wake, noise_device_set_up,
                                        noise_device_tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
