/* Readers who go forward find the next chunks on the node; who reads here and there has nothing
 * fetched that nobody asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/noise_device.h"

static void read_part(const struct noise_device *fixture, uint64_t offset, size_t length)
{
    expect_bytes_of(ask(fixture->device, offset, length), fixture->layer.stream, STREAM, offset,
                    length);
}

static void settle(const struct noise_device *fixture)
{
    struct data_path_statistics statistics;
    do {
        usleep(1000);
        data_path_statistics(fixture->path, &statistics);
    } while (statistics.chunks_in_flight > 0);
}

static uint64_t chunks_fetched(const struct noise_device *fixture)
{
    struct data_path_statistics statistics;
    settle(fixture);
    data_path_statistics(fixture->path, &statistics);
    return statistics.chunks_fetched;
}

static void who_goes_forward_costs_few_requests(void **state)
{
    const struct noise_device *fixture = *state;
    for (uint64_t offset = 0; offset < STREAM; offset += 4096)
        read_part(fixture, offset, 4096);
    assert_int_equal(chunks_fetched(fixture), CHUNKS);
    assert_true(fake_requests(0) < CHUNKS / 10);
}

static void what_is_fetched_ahead_grows_with_the_way_behind(void **state)
{
    const struct noise_device *fixture = *state;
    read_part(fixture, 100 * CHUNK_SIZE, 4096);
    assert_int_equal(chunks_fetched(fixture), 1);
    read_part(fixture, 101 * CHUNK_SIZE, 4096);
    assert_int_equal(chunks_fetched(fixture), 3);
    for (uint32_t chunk = 102; chunk < 110; chunk++) {
        read_part(fixture, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
        assert_true(chunks_fetched(fixture) <= 4 * (chunk - 100));
    }
    assert_true(chunks_fetched(fixture) >= 20);
}

/* As a program does that is loaded: it has parts that it does not use. */
static void who_leaves_some_out_goes_forward_all_the_same(void **state)
{
    const struct noise_device *fixture = *state;
    unsigned reads = 0;
    for (uint64_t chunk = 0; chunk < CHUNKS; chunk += 2 + chunk % 3) {
        read_part(fixture, chunk * CHUNK_SIZE, 4096);
        settle(fixture); /* else it is chance what has come when it is read */
        reads++;
    }
    assert_true(fake_requests(0) < reads / 5 * 4);
}

static void who_reads_here_and_there_has_nothing_fetched(void **state)
{
    const struct noise_device *fixture = *state;
    unsigned asked = 0;
    for (uint32_t i = 0; i < CHUNKS; i++, asked++)
        read_part(fixture, (uint64_t)(i * 7919u % CHUNKS & ~1u) * CHUNK_SIZE, 100);
    for (uint32_t i = CHUNKS - 1; i < CHUNKS; i -= 4)
        read_part(fixture, (uint64_t)i * CHUNK_SIZE, 100);
    assert_int_equal(asked, CHUNKS);
    assert_true(chunks_fetched(fixture) <= CHUNKS / 2 + CHUNKS / 4);
}

static void several_go_forward_at_once(void **state)
{
    const struct noise_device *fixture = *state;
    for (uint64_t offset = 0; offset < 300 * CHUNK_SIZE; offset += CHUNK_SIZE)
        for (uint64_t reader = 0; reader < 3; reader++)
            read_part(fixture, reader * 400 * CHUNK_SIZE + offset, CHUNK_SIZE);
    settle(fixture);
    assert_true(fake_requests(0) < 300);
}

static void the_registry_need_not_be_there_for_the_reader_to_go_on(void **state)
{
    const struct noise_device *fixture = *state;
    for (uint32_t chunk = 0; chunk < 40; chunk++)
        read_part(fixture, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
    settle(fixture);
    fake_be_unreachable(true);
    for (uint32_t chunk = 40; chunk < 60; chunk++)
        read_part(fixture, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
    settle(fixture);
    fake_be_unreachable(false);
    for (uint32_t chunk = 60; chunk < 200; chunk++)
        read_part(fixture, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_goes_forward_costs_few_requests, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(what_is_fetched_ahead_grows_with_the_way_behind,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(who_leaves_some_out_goes_forward_all_the_same,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(who_reads_here_and_there_has_nothing_fetched,
                                        noise_device_set_up, noise_device_tear_down),
        cmocka_unit_test_setup_teardown(several_go_forward_at_once, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(the_registry_need_not_be_there_for_the_reader_to_go_on,
                                        noise_device_set_up, noise_device_tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
