/* Images share devices: reads are counted for who reads, what is fetched for the layer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/noise_device.h"

static struct asked *ask_for(const struct noise_device *fixture, struct device_reader *reader,
                             uint32_t chunk)
{
    struct asked *asked = asked_new(CHUNK_SIZE);
    layer_device_read(fixture->device, reader, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE,
                      note_answer, asked);
    return asked;
}

static void expect_chunk(const struct noise_device *fixture, struct asked *asked, uint32_t chunk)
{
    expect_bytes_of(asked, fixture->layer.stream, STREAM, (uint64_t)chunk * CHUNK_SIZE, CHUNK_SIZE);
}

static void reads_are_counted_for_who_reads(void **state)
{
    const struct noise_device *fixture = *state;
    struct device_reader one = { 0 }, other = { 0 };
    struct layer_device_statistics fetched;
    struct data_path_statistics all;
    expect_chunk(fixture, ask_for(fixture, &one, 3), 3);
    expect_chunk(fixture, ask_for(fixture, &other, 3), 3);
    expect_chunk(fixture, ask_for(fixture, NULL, 3), 3);
    assert_int_equal(one.reads_missed, 1);
    assert_int_equal(one.reads_hit, 0);
    assert_int_equal(one.bytes_served, CHUNK_SIZE);
    assert_int_equal(other.reads_missed, 0);
    assert_int_equal(other.reads_hit, 1);
    assert_int_equal(other.bytes_served, CHUNK_SIZE);
    assert_int_equal(other.errors, 0);
    data_path_statistics(fixture->path, &all);
    assert_int_equal(all.reads_missed, 1);
    assert_int_equal(all.reads_hit, 2);
    layer_device_statistics(fixture->device, &fetched);
    assert_int_equal(fetched.chunks_fetched, all.chunks_fetched);
    assert_int_equal(fetched.bytes_fetched, all.bytes_fetched);
}

static void who_waits_and_how_long_is_told(void **state)
{
    const struct noise_device *fixture = *state;
    struct device_reader one = { 0 }, other = { 0 };
    fake_hold(true);
    struct asked *first = ask_for(fixture, &one, 1), *second = ask_for(fixture, &one, 2);
    assert_int_equal(one.reads_waiting, 2);
    assert_int_equal(other.reads_waiting, 0);
    while (data_path_oldest_wait_ms(fixture->path, &one) < 20)
        usleep(1000);
    assert_int_equal(data_path_oldest_wait_ms(fixture->path, &other), 0);
    struct asked *third = ask_for(fixture, &other, 1);
    assert_int_equal(other.reads_waiting, 1);
    assert_true(data_path_oldest_wait_ms(fixture->path, NULL) >=
                data_path_oldest_wait_ms(fixture->path, &other));
    fake_hold(false);
    expect_chunk(fixture, first, 1);
    expect_chunk(fixture, second, 2);
    expect_chunk(fixture, third, 1);
    assert_int_equal(one.reads_waiting, 0);
    assert_int_equal(other.reads_waiting, 0);
    assert_int_equal(data_path_oldest_wait_ms(fixture->path, NULL), 0);
}

static void errors_are_counted_for_who_got_them(void **state)
{
    const struct noise_device *fixture = *state;
    struct device_reader one = { 0 }, other = { 0 };
    uint64_t age_ms;
    expect_chunk(fixture, ask_for(fixture, &other, 3), 3);
    assert_null(layer_device_last_error(fixture->device, NULL));
    fake_be_unreachable(true);
    expect_failure(ask_for(fixture, &one, 500));
    assert_int_equal(one.errors, 1);
    assert_int_equal(one.bytes_served, 0);
    assert_int_not_equal(one.failed_at, 0);
    assert_int_equal(other.errors, 0);
    assert_int_equal(other.failed_at, 0);
    char *reason = layer_device_last_error(fixture->device, &age_ms);
    assert_non_null(strstr(reason, "does not answer"));
    free(reason);
    layer_device_refuse(fixture->device, "it lies");
    expect_failure(ask_for(fixture, &other, 3));
    assert_int_equal(other.errors, 1);
}

/* A reader may go as soon as the last of its reads was answered, whatever the device still does. */
static void reader_may_go_after_its_last_answer(void **state)
{
    const struct noise_device *fixture = *state;
    for (uint32_t i = 0; i < 200; i++) {
        struct device_reader *reader = calloc(1, sizeof *reader);
        expect_chunk(fixture, ask_for(fixture, reader, i), i);
        assert_int_equal(reader->reads_waiting, 0);
        free(reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_are_counted_for_who_reads, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(who_waits_and_how_long_is_told, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(errors_are_counted_for_who_got_them, noise_device_set_up,
                                        noise_device_tear_down),
        cmocka_unit_test_setup_teardown(reader_may_go_after_its_last_answer, noise_device_set_up,
                                        noise_device_tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
