/*
 * A cache that is too small: whoever stores, evicts, dies or damages, what is
 * read is the stream, and the directory stays within its bound.
 *
 * Two caches that one process opens on a directory are two servers to each
 * other: locks and mappings are theirs by descriptor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/room-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/range_request-internal.h"
#include "tests/unit/cache_outcome.h"
#include "tests/unit/cache_server.h"

/* ---- the bound ---- */

static void stays_within_its_size(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    uint64_t most = 0;
    server_start(&server, fixture, fixture->directory, QUOTA);
    for (unsigned round = 0; round < 4; round++) {
        expect_all(&server);
        uint64_t now = on_disk(fixture->directory);
        if (now > most) most = now;
    }
    struct data_path_statistics statistics;
    data_path_statistics(server.path, &statistics);
    server_stop(&server);
    assert_true(most <= QUOTA + SLACK);
    assert_true(on_disk(fixture->directory) > QUOTA / 2);
    assert_int_equal(statistics.read_errors, 0);
    assert_int_equal(statistics.chunks_damaged, 0);
}

/* The chunks that were read last are there, the first ones are not. */
static void oldest_go_first(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, 0);
    expect_all(&server);
    while (layer_cache_generation(server.device->cache, CHUNKS - 1) == 0)
        wait_milliseconds(1);
    server_stop(&server);

    /* As if half of the chunks had not been used for an hour. */
    char *path = file_of_layer(fixture->directory, "chunks");
    int file = open(path, O_RDWR);
    uint32_t long_ago = (uint32_t)time(NULL) - 3600;
    for (uint32_t i = 0; i < CHUNKS; i += 2)
        assert_int_equal(pwrite(file, &long_ago, 4, (off_t)(64 + 8 * CHUNKS + i * 4)), 4);
    close(file);
    free(path);

    server_start(&server, fixture, fixture->directory, 7 << 20);
    while (on_disk(fixture->directory) > 7 << 20)
        wait_milliseconds(1);
    for (uint32_t i = 1; i < CHUNKS; i += 2)
        assert_true(layer_cache_generation(server.device->cache, i) != 0);
    expect_all(&server);
    server_stop(&server);
}

static long status_field(const char *field)
{
    char line[256];
    long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            sscanf(line + strlen(field), ": %ld", &kilobytes);
    fclose(file);
    return kilobytes;
}

/* SLUICE_READS is how many reads each of four readers makes: 25,000 for the long form. */
static void memory_does_not_grow_with_the_reads(void **state)
{
    const struct fixture *fixture = *state;
    const char *reads = getenv("SLUICE_READS");
    struct server server;
    struct reader readers[READERS];
    server_start(&server, fixture, fixture->directory, QUOTA);
    start_readers(readers, &server, 1, 500);
    join_readers(readers);
    long before = status_field("VmRSS");
    start_readers(readers, &server, 1, reads ? (unsigned)strtoul(reads, NULL, 10) : 5000);
    join_readers(readers);
    long after = status_field("VmRSS");
    print_message("VmRSS %ld kB, then %ld kB; VmHWM %ld kB\n", before, after,
                  status_field("VmHWM"));
    assert_true(server.path->memory.peak <= MEMORY + RANGE_LENGTH_MAX);
    server_stop(&server);
    assert_true(after < before + (16 << 10) || getenv("TSAN_OPTIONS") || getenv("ASAN_OPTIONS"));
}

static void two_servers_thrash_one_directory(void **state)
{
    const struct fixture *fixture = *state;
    struct server servers[2];
    struct reader readers[READERS];
    uint64_t most = 0;
    server_start(&servers[0], fixture, fixture->directory, QUOTA);
    server_start(&servers[1], fixture, fixture->directory, QUOTA + QUOTA / 2);
    start_readers(readers, servers, 2, 500);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t now = on_disk(fixture->directory);
        if (now > most) most = now;
        wait_milliseconds(5);
    }
    join_readers(readers);
    for (unsigned i = 0; i < 2; i++) {
        struct data_path_statistics statistics;
        data_path_statistics(servers[i].path, &statistics);
        assert_int_equal(statistics.read_errors, 0);
        assert_int_equal(statistics.chunks_damaged, 0);
        assert_int_equal(statistics.reads_waiting, 0);
        server_stop(&servers[i]);
    }
    assert_true(most <= QUOTA + QUOTA / 2 + SLACK);
}

/* Readers of one server while the other does nothing but evict all there is, again and again. */
static void *evict_all(void *argument)
{
    struct server *server = argument;
    while (!atomic_load(&server->device->closing)) {
        cache_set_limits(server->cache, &(struct cache_limits){ .size = 1 });
        wait_milliseconds(1);
    }
    return NULL;
}

static void eviction_under_readers_gives_no_wrong_byte(void **state)
{
    const struct fixture *fixture = *state;
    struct server servers[2];
    struct reader readers[READERS];
    pthread_t evictor;
    server_start(&servers[0], fixture, fixture->directory, 0);
    server_start(&servers[1], fixture, fixture->directory, 0);
    assert_int_equal(pthread_create(&evictor, NULL, evict_all, &servers[1]), 0);
    start_readers(readers, servers, 1, 700);
    join_readers(readers);
    struct data_path_statistics statistics;
    data_path_statistics(servers[0].path, &statistics);
    atomic_store(&servers[1].device->closing, true);
    pthread_join(evictor, NULL);
    server_stop(&servers[0]);
    server_stop(&servers[1]);
    assert_true(statistics.chunks_fetched > CHUNKS); /* there was eviction */
    assert_int_equal(statistics.chunks_damaged, 0);
}

/* What read_hit() calls between its two looks at the generation. */
static struct cache *_Atomic evicts_before_reading;

ssize_t preadv2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
{
    struct cache *cache = atomic_exchange(&evicts_before_reading, NULL);
    const struct eviction_goal nothing_stays = { .size_max = 0 };
    struct eviction_result result;
    if (cache) {
        if (!cache_lock(cache, CACHE_LOCK_EVICTION, 10000)) abort();
        if (!eviction_run(cache, &nothing_stays, &result)) abort();
        cache_unlock(cache, CACHE_LOCK_EVICTION);
    }
    return syscall(SYS_preadv2, descriptor, parts, count, offset, 0, flags);
}

static void eviction_in_the_middle_of_a_hit_is_noticed(void **state)
{
    const struct fixture *fixture = *state;
    struct server servers[2];
    server_start(&servers[0], fixture, fixture->directory, 0);
    server_start(&servers[1], fixture, fixture->directory, 0);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t offset = i * 5 * CHUNK_SIZE + 100;
        struct asked *asked = ask(servers[0].device, offset, CHUNK_SIZE);
        expect_bytes_of(asked, fixture->layer.stream, STREAM, offset, CHUNK_SIZE);
        while (!chunk_present(servers[0].device, i * 5) ||
               !chunk_present(servers[0].device, i * 5 + 1))
            wait_milliseconds(1);
        atomic_store(&evicts_before_reading, servers[1].cache);
        asked = ask(servers[0].device, offset, CHUNK_SIZE);
        assert_null(atomic_load(&evicts_before_reading));
        expect_bytes_of(asked, fixture->layer.stream, STREAM, offset, CHUNK_SIZE);
    }
    server_stop(&servers[0]);
    server_stop(&servers[1]);
}

static void what_never_fits_is_served_without_storing(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, CHUNK_SIZE / 2);
    expect_all(&server);
    struct data_path_statistics statistics;
    data_path_statistics(server.path, &statistics);
    server_stop(&server);
    assert_true(statistics.store_errors > 0);
    assert_int_equal(statistics.read_errors, 0);
}

static void disk_without_the_reserve_is_left_alone(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, 0);
    cache_set_limits(server.cache, &(struct cache_limits){ .reserve = (uint64_t)1 << 60 });
    expect_all(&server);
    server_stop(&server);
    assert_true(on_disk(fixture->directory) < (uint64_t)256 << 10);
}

/* ---- the count ---- */

/* What a process that died had counted is taken from the count once, by whichever of those who
 * evict at the same time comes first. */
static void count_is_put_right_once(void **state)
{
    const struct fixture *fixture = *state;
    const uint64_t size = (uint64_t)64 << 20;
    const struct digest key = { { 9 } };
    struct cache *first, *second;
    assert_int_equal(cache_open(&first, fixture->directory, NULL), 0);
    assert_int_equal(cache_open(&second, fixture->directory, NULL), 0);
    assert_int_equal(cache_put_blob(first, &key, fixture->layer.stream, STREAM, NULL), 0);
    assert_true(room_take_now(first->room, size));
    room_stored(first->room, size);

    struct stat status;
    int other = cache_open_file(first->root, "lock", O_RDWR, &status);
    while (!file_lock(other, F_WRLCK, CACHE_LOCK_EVICTION, 1))
        wait_milliseconds(1);
    cache_set_limits(first, &(struct cache_limits){ .size = 2 * size });
    cache_set_limits(second, &(struct cache_limits){ .size = 2 * size });
    wait_milliseconds(100); /* both have begun, most likely */
    close(other);
    while (cache_usage(first) >= size)
        wait_milliseconds(1);
    cache_free(first); /* when what its thread does is done */
    uint64_t usage = cache_usage(second);
    cache_free(second);
    assert_in_range(usage, STREAM, on_disk(fixture->directory) + SLACK);
}

/* ---- what is kept ---- */

static void layer_that_is_kept_loses_nothing_while_it_is_open(void **state)
{
    const struct fixture *fixture = *state;
    const struct digest key = { { 9 } };
    const uint32_t lengths[2] = { CHUNK_SIZE, CHUNK_SIZE };
    const struct layer_shape shape = { 2 * CHUNK_SIZE, 2, lengths, true };
    struct server server;
    struct layer_cache *kept;
    server_start(&server, fixture, fixture->directory, 0);
    assert_int_equal(layer_cache_open(server.cache, &key, &shape, &kept, NULL), 0);
    assert_int_equal(store_chunk(kept, 1, CHUNK_SIZE, fixture->layer.stream, CHUNK_SIZE),
                     CHUNK_SIZE);
    expect_all(&server);
    cache_set_limits(server.cache, &(struct cache_limits){ .size = CHUNK_SIZE });
    while (layer_cache_generation(server.device->cache, 0))
        wait_milliseconds(1);
    assert_true(layer_cache_generation(kept, 1) != 0);
    layer_cache_close(kept);
    server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stays_within_its_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(oldest_go_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_does_not_grow_with_the_reads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_servers_thrash_one_directory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(eviction_under_readers_gives_no_wrong_byte, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(eviction_in_the_middle_of_a_hit_is_noticed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_never_fits_is_served_without_storing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(disk_without_the_reserve_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(count_is_put_right_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layer_that_is_kept_loses_nothing_while_it_is_open, set_up,
                                        tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
