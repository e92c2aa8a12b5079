/* Readers who go forward find the next chunks on the node; who reads here and there has nothing
 * fetched that nobody asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/tar_layer.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 16384u
#define CHUNKS     1200u
#define STREAM     ((uint64_t)CHUNKS * CHUNK_SIZE)

struct fixture {
    char *directory;
    struct tar_layer layer;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
};

static void open_all(struct fixture *fixture)
{
    const struct layer_device_source source = { .registry = "localhost:1",
                                                .repository = "test",
                                                .table = &fixture->layer.table,
                                                .table_digest = { { 1 } } };
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    assert_int_equal(data_path_new(&fixture->path, NULL, fixture->cache, NULL, NULL), 0);
    assert_int_equal(layer_device_open(fixture->path, &source, &fixture->device, NULL), 0);
}

static void close_all(struct fixture *fixture)
{
    layer_device_close(fixture->device);
    data_path_free(fixture->path);
    cache_free(fixture->cache);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    tar_layer_make(&fixture->layer, STREAM, CHUNK_SIZE, 0);
    fake_start();
    fake.blobs[0] =
        (struct fake_blob){ fixture->layer.table.blob_digest, fixture->layer.stream, STREAM, 0 };
    open_all(fixture);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    close_all(fixture);
    fake_stop();
    temporary_directory_remove(fixture->directory);
    tar_layer_free(&fixture->layer);
    free(fixture);
    return 0;
}

static void read_part(const struct fixture *fixture, uint64_t offset, size_t length)
{
    expect_bytes_of(ask(fixture->device, offset, length), fixture->layer.stream, STREAM, offset,
                    length);
}

static void settle(const struct fixture *fixture)
{
    struct data_path_statistics statistics;
    do {
        usleep(1000);
        data_path_statistics(fixture->path, &statistics);
    } while (statistics.chunks_in_flight > 0);
}

static uint64_t chunks_fetched(const struct fixture *fixture)
{
    struct data_path_statistics statistics;
    settle(fixture);
    data_path_statistics(fixture->path, &statistics);
    return statistics.chunks_fetched;
}

static void who_goes_forward_costs_few_requests(void **state)
{
    const struct fixture *fixture = *state;
    for (uint64_t offset = 0; offset < STREAM; offset += 4096)
        read_part(fixture, offset, 4096);
    assert_int_equal(chunks_fetched(fixture), CHUNKS);
    assert_true(fake_requests(0) < CHUNKS / 10);
}

static void what_is_fetched_ahead_grows_with_the_way_behind(void **state)
{
    const struct fixture *fixture = *state;
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
    const struct fixture *fixture = *state;
    for (uint64_t chunk = 0; chunk < CHUNKS; chunk += 2 + chunk % 3)
        read_part(fixture, chunk * CHUNK_SIZE, 4096);
    settle(fixture);
    assert_true(fake_requests(0) < CHUNKS / 5);
}

static void who_reads_here_and_there_has_nothing_fetched(void **state)
{
    const struct fixture *fixture = *state;
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
    const struct fixture *fixture = *state;
    for (uint64_t offset = 0; offset < 300 * CHUNK_SIZE; offset += CHUNK_SIZE)
        for (uint64_t reader = 0; reader < 3; reader++)
            read_part(fixture, reader * 400 * CHUNK_SIZE + offset, CHUNK_SIZE);
    settle(fixture);
    assert_true(fake_requests(0) < 300);
}

static void the_registry_need_not_be_there_for_the_reader_to_go_on(void **state)
{
    const struct fixture *fixture = *state;
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
        cmocka_unit_test_setup_teardown(who_goes_forward_costs_few_requests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_fetched_ahead_grows_with_the_way_behind, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_leaves_some_out_goes_forward_all_the_same, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_reads_here_and_there_has_nothing_fetched, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(several_go_forward_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_registry_need_not_be_there_for_the_reader_to_go_on,
                                        set_up, tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
