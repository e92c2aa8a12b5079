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
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/tar_layer.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 16384u
#define CHUNKS     600u
#define STREAM     ((uint64_t)CHUNKS * CHUNK_SIZE - 1000)
#define MEMORY     (32u * CHUNK_SIZE)

/* Of the directory; the stream is 9.8 MB. */
#define QUOTA ((uint64_t)2 << 20)
/* What servers are writing may come on top, and blocks at the borders of chunks. */
#define SLACK ((uint64_t)2 * MEMORY + QUOTA / 4)

struct fixture {
    char *directory;
    struct tar_layer layer;
};

/* One of the servers on the directory. */
struct server {
    const struct fixture *fixture;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
};

static void server_start(struct server *server, const struct fixture *fixture,
                         const char *directory, uint64_t size)
{
    const struct data_path_options options = { .memory_limit = MEMORY };
    const struct cache_limits limits = { .size = size };
    const struct layer_device_source source = { .registry = "localhost:1",
                                                .repository = "test",
                                                .table = &fixture->layer.table,
                                                .table_digest = { { 1 } } };
    server->fixture = fixture;
    assert_int_equal(cache_open(&server->cache, directory, NULL), 0);
    cache_set_limits(server->cache, &limits);
    assert_int_equal(data_path_new(&server->path, NULL, server->cache, &options, NULL), 0);
    assert_int_equal(layer_device_open(server->path, &source, &server->device, NULL), 0);
}

static void server_stop(struct server *server)
{
    layer_device_close(server->device);
    data_path_free(server->path);
    cache_free(server->cache);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    tar_layer_make(&fixture->layer, STREAM, CHUNK_SIZE, 3);
    fake_start();
    fake.blobs[0] =
        (struct fake_blob){ fixture->layer.table.blob_digest, fixture->layer.stream, STREAM, 0 };
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    fake_stop();
    temporary_directory_remove(fixture->directory);
    tar_layer_free(&fixture->layer);
    free(fixture);
    return 0;
}

/* ---- looking at the directory ---- */

static uint64_t found_on_disk;

static int add_size(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)path, (void)walk;
    if (type == FTW_F) found_on_disk += (uint64_t)status->st_blocks * 512;
    return 0;
}

static uint64_t on_disk(const char *directory)
{
    found_on_disk = 0;
    nftw(directory, add_size, 16, FTW_PHYS);
    return found_on_disk;
}

static char *file_of_layer(const char *directory, const char *file)
{
    const struct digest key = { { 1 } };
    char hex[DIGEST_HEX_SIZE], *path = NULL;
    digest_format_hex(&key, hex);
    assert_true(asprintf(&path, "%s/layers/%s/%s", directory, hex, file) > 0);
    return path;
}

static void wait_milliseconds(unsigned milliseconds)
{
    struct timespec time = { milliseconds / 1000, (long)(milliseconds % 1000) * 1000000 };
    nanosleep(&time, NULL);
}

/* ---- readers ---- */

struct reader {
    const struct server *server;
    pthread_t thread;
    uint32_t random;
    unsigned reads;
};

static uint32_t next_random(uint32_t *random)
{
    *random = *random * 1664525 + 1013904223;
    return *random >> 8;
}

static void *read_at_random(void *argument)
{
    struct reader *reader = argument;
    const struct tar_layer *layer = &reader->server->fixture->layer;
    for (unsigned i = 0; i < reader->reads; i++) {
        uint64_t offset = next_random(&reader->random) % STREAM;
        size_t length = next_random(&reader->random) % (3 * CHUNK_SIZE);
        struct asked *asked = ask(reader->server->device, offset, length);
        if (wait_answer(asked) != (ssize_t)length) abort();
        for (size_t j = 0; j < length; j++)
            if (asked->data[j] != (offset + j < STREAM ? layer->stream[offset + j] : 0)) abort();
        asked_free(asked);
    }
    return NULL;
}

#define READERS 4u

static void start_readers(struct reader readers[READERS], const struct server *servers,
                          unsigned server_count, unsigned reads)
{
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){ .server = &servers[i % server_count],
                                      .random = i * 7919 + 1,
                                      .reads = reads };
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
}

static void join_readers(struct reader readers[READERS])
{
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
}

static void expect_all(const struct server *server)
{
    for (uint32_t i = 0; i < CHUNKS; i += 20) {
        uint64_t offset = (uint64_t)i * CHUNK_SIZE;
        struct asked *asked = ask(server->device, offset, 20 * CHUNK_SIZE);
        expect_bytes_of(asked, server->fixture->layer.stream, STREAM, offset, 20 * CHUNK_SIZE);
    }
}

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

/* ---- what is kept ---- */

static void note_stored(void *context, ssize_t result, uint32_t generation)
{
    assert_true(generation != 0);
    note_answer(context, NULL, result > 0 ? 0 : result);
}

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
    struct asked done = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    layer_cache_store(kept, 1, CHUNK_SIZE, fixture->layer.stream, CHUNK_SIZE, note_stored, &done);
    assert_int_equal(wait_answer(&done), 0);
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
        cmocka_unit_test_setup_teardown(two_servers_thrash_one_directory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(eviction_under_readers_gives_no_wrong_byte, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_never_fits_is_served_without_storing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(disk_without_the_reserve_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layer_that_is_kept_loses_nothing_while_it_is_open, set_up,
                                        tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
