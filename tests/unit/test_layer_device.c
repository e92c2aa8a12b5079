/*
 * The data path over a registry in memory: who asks gets the stream's bytes or
 * an error, whatever network, disk and other readers do.
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
#include <pthread.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/device_read-internal.h"
#include "fuse/layer_device-internal.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/full_disk.h"
#include "tests/unit/tar_layer.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 16384u
#define CHUNKS     1200u
#define STREAM     ((uint64_t)CHUNKS * CHUNK_SIZE - 1000) /* the last chunk is shorter */

struct fixture {
    char *directory;
    struct tar_layer layer;
    struct layer_device_source source;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
};

/* ---- reads ---- */

static void expect_bytes(const struct fixture *fixture, struct asked *asked, uint64_t offset,
                         size_t length)
{
    expect_bytes_of(asked, fixture->layer.stream, fixture->layer.table.stream_length, offset,
                    length);
}

static void expect_read(const struct fixture *fixture, uint64_t offset, size_t length)
{
    expect_bytes(fixture, ask(fixture->device, offset, length), offset, length);
}

static struct data_path_statistics statistics(const struct fixture *fixture)
{
    struct data_path_statistics result;
    data_path_statistics(fixture->path, &result);
    return result;
}

/* ---- the layer ---- */

static void open_all(struct fixture *fixture, const struct data_path_options *options)
{
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    assert_int_equal(data_path_new(&fixture->path, NULL, fixture->cache, options, NULL), 0);
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
}

static void close_all(struct fixture *fixture)
{
    layer_device_close(fixture->device);
    data_path_free(fixture->path);
    cache_free(fixture->cache);
    fixture->device = NULL;
    fixture->path = NULL;
    fixture->cache = NULL;
}

static void reopen(struct fixture *fixture, const struct data_path_options *options)
{
    close_all(fixture);
    open_all(fixture, options);
}

static struct fixture *fixture_new(void)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    tar_layer_make(&fixture->layer, STREAM, CHUNK_SIZE, 0);
    fixture->source = (struct layer_device_source){ .registry = "localhost:1",
                                                    .repository = "test",
                                                    .table = &fixture->layer.table,
                                                    .table_digest = { { 1 } } };
    fake_start();
    fake.blobs[0] =
        (struct fake_blob){ fixture->layer.table.blob_digest, fixture->layer.stream, STREAM, 0 };
    return fixture;
}

static int set_up(void **state)
{
    struct fixture *fixture = fixture_new();
    open_all(fixture, NULL);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->device) close_all(fixture);
    fake_stop();
    temporary_directory_remove(fixture->directory);
    tar_layer_free(&fixture->layer);
    free(fixture);
    return 0;
}

static char *data_file(const struct fixture *fixture)
{
    char hex[DIGEST_HEX_SIZE], *path = NULL;
    digest_format_hex(&fixture->source.table_digest, hex);
    assert_true(asprintf(&path, "%s/layers/%s/data", fixture->directory, hex) > 0);
    return path;
}

static void damage_chunk(const struct fixture *fixture, uint32_t chunk)
{
    char *path = data_file(fixture);
    int descriptor = open(path, O_WRONLY);
    assert_int_equal(pwrite(descriptor, "damaged", 7, (off_t)chunk * CHUNK_SIZE + 99), 7);
    close(descriptor);
    free(path);
}

/* ---- hits and misses ---- */

static void read_gives_the_streams_bytes(void **state)
{
    const struct fixture *fixture = *state;
    expect_read(fixture, 0, 512);
    expect_read(fixture, 100, 3 * CHUNK_SIZE);
    expect_read(fixture, 5 * CHUNK_SIZE - 1, 2);
    expect_read(fixture, 0, 8 * CHUNK_SIZE); /* some are here, some are not */
    expect_read(fixture, STREAM - 10, 4096);
    expect_read(fixture, STREAM - CHUNK_SIZE - 10, 65536);
    expect_read(fixture, STREAM, 512);
    expect_read(fixture, UINT64_MAX - 10, 4096);
    expect_read(fixture, 7, 0);
    expect_read(fixture, 0, DEVICE_READ_MAX);
}

static void read_that_is_too_long_is_refused(void **state)
{
    const struct fixture *fixture = *state;
    struct asked *asked = ask(fixture->device, 0, DEVICE_READ_MAX + 1);
    assert_int_equal(wait_answer(asked), -EINVAL);
    asked_free(asked);
}

static void chunk_is_fetched_once_whoever_asks(void **state)
{
    const struct fixture *fixture = *state;
    struct asked *asked[50];
    fake_hold(true);
    for (unsigned i = 0; i < 50; i++)
        asked[i] = ask(fixture->device, 9 * CHUNK_SIZE + i, 100);
    fake_hold(false);
    for (unsigned i = 0; i < 50; i++)
        expect_bytes(fixture, asked[i], 9 * CHUNK_SIZE + i, 100);
    expect_read(fixture, 9 * CHUNK_SIZE, CHUNK_SIZE);
    assert_int_equal(fake_requests(0), 1);
    assert_int_equal(statistics(fixture).chunks_fetched, 1);
}

static void neighbours_come_in_one_range(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t chunks[] = { 23, 21, 22, 20 };
    struct asked *asked[4];
    reopen(fixture, &(struct data_path_options){ .ranges_in_flight = 1 });
    fake_hold(true);
    struct asked *first = ask(fixture->device, 0, 1);
    fake_wait_waiting(1);
    for (unsigned i = 0; i < 4; i++)
        asked[i] = ask(fixture->device, chunks[i] * CHUNK_SIZE, 10);
    fake_hold(false);
    expect_bytes(fixture, first, 0, 1);
    for (unsigned i = 0; i < 4; i++)
        expect_bytes(fixture, asked[i], chunks[i] * CHUNK_SIZE, 10);
    assert_int_equal(fake_requests(0), 2);
    assert_int_equal(fake.log[1].offset, 20 * CHUNK_SIZE);
    assert_int_equal(fake.log[1].length, 4 * CHUNK_SIZE);
}

static void neighbours_come_along_on_an_idle_link(void **state)
{
    struct fixture *fixture = *state;
    reopen(fixture, &(struct data_path_options){ .neighbours = true });
    expect_read(fixture, 20 * CHUNK_SIZE, 10);
    assert_int_equal(fake.log[0].offset, 20 * CHUNK_SIZE);
    assert_true(fake.log[0].length >= 2 * CHUNK_SIZE);
    expect_read(fixture, 21 * CHUNK_SIZE, 10);
    expect_read(fixture, 19 * CHUNK_SIZE, 10);
    assert_int_equal(fake_requests(0), 2);
    assert_true(fake.log[1].offset < 20 * CHUNK_SIZE);
    assert_int_equal(fake.log[1].offset + fake.log[1].length, 20 * CHUNK_SIZE);
}

static void a_read_of_two_chunks_brings_neighbours_too(void **state)
{
    struct fixture *fixture = *state;
    reopen(fixture, &(struct data_path_options){ .neighbours = true });
    expect_read(fixture, 21 * CHUNK_SIZE - 10, 20);
    assert_int_equal(fake.log[0].offset, 20 * CHUNK_SIZE);
    assert_true(fake.log[0].length >= 3 * CHUNK_SIZE);
}

/* Two readers who wait, each with what is beside it, are as many as an idle link has. */
static void a_busy_link_brings_no_neighbours(void **state)
{
    struct fixture *fixture = *state;
    struct asked *asked[3];
    reopen(fixture, &(struct data_path_options){ .neighbours = true });
    fake_hold(true);
    for (unsigned i = 0; i < 3; i++)
        asked[i] = ask(fixture->device, (uint64_t)(200 + 100 * i) * CHUNK_SIZE, 10);
    fake_wait_waiting(5);
    assert_int_equal(fake.log[4].offset, 400 * CHUNK_SIZE);
    assert_int_equal(fake.log[4].length, CHUNK_SIZE);
    fake_hold(false);
    for (unsigned i = 0; i < 3; i++)
        expect_bytes(fixture, asked[i], (uint64_t)(200 + 100 * i) * CHUNK_SIZE, 10);
}

static void first_chunks_are_answered_while_the_rest_is_on_its_way(void **state)
{
    struct fixture *fixture = *state;
    struct asked *asked[64];
    reopen(fixture, &(struct data_path_options){ .ranges_in_flight = 1 });
    fake_hold(true);
    struct asked *first = ask(fixture->device, 0, 1);
    fake_wait_waiting(1);
    for (unsigned i = 0; i < 64; i++)
        asked[i] = ask(fixture->device, (100 + i) * CHUNK_SIZE, CHUNK_SIZE);
    fake_stall_at(20 * CHUNK_SIZE);
    fake_hold(false);
    expect_bytes(fixture, first, 0, 1);
    expect_bytes(fixture, asked[0], 100 * CHUNK_SIZE, CHUNK_SIZE);
    expect_bytes(fixture, asked[10], 110 * CHUNK_SIZE, CHUNK_SIZE);
    assert_false(is_answered(asked[40]));
    fake_stall_at(0);
    for (unsigned i = 1; i < 64; i++)
        if (i != 10) expect_bytes(fixture, asked[i], (100 + i) * CHUNK_SIZE, CHUNK_SIZE);
    assert_int_equal(fake_requests(0), 2);
}

static void closing_waits_for_no_answer_that_has_begun(void **state)
{
    struct fixture *fixture = *state;
    fake_stall_at(1);
    struct asked *asked = ask(fixture->device, 0, 40 * CHUNK_SIZE);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    expect_failure(asked);
    fake_stall_at(0);
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
    expect_read(fixture, 0, 40 * CHUNK_SIZE);
}

static void hit_is_answered_while_a_thousand_misses_wait(void **state)
{
    const struct fixture *fixture = *state;
    static struct asked *asked[1000];
    expect_read(fixture, 0, CHUNK_SIZE);
    while (statistics(fixture).chunks_in_flight > 0 ||
           chunk_state(fixture->device, 0) != CHUNK_PRESENT)
        usleep(1000);
    fake_hold(true);
    for (unsigned i = 1000; i-- > 0;)
        asked[i] = ask(fixture->device, (uint64_t)(i + 1) * CHUNK_SIZE, 4096);
    struct asked *hit = ask(fixture->device, 5, 100);
    expect_bytes(fixture, hit, 5, 100);
    for (unsigned i = 0; i < 1000; i++)
        assert_false(is_answered(asked[i]));
    assert_int_equal(statistics(fixture).reads_waiting, 1000);
    fake_hold(false);
    for (unsigned i = 0; i < 1000; i++)
        expect_bytes(fixture, asked[i], (uint64_t)(i + 1) * CHUNK_SIZE, 4096);
    assert_int_equal(statistics(fixture).chunks_fetched, 1001);
}

/* ---- the cache ---- */

static void stored_chunks_need_no_registry(void **state)
{
    struct fixture *fixture = *state;
    uint32_t chunks;
    uint64_t bytes;
    expect_read(fixture, 0, 40 * CHUNK_SIZE);
    reopen(fixture, NULL);
    fake_be_unreachable(true);
    layer_device_presence(fixture->device, &chunks, &bytes);
    assert_int_equal(chunks, 40);
    assert_int_equal(bytes, 40 * CHUNK_SIZE);
    expect_read(fixture, 0, 40 * CHUNK_SIZE);
    expect_read(fixture, 100, 20 * CHUNK_SIZE);
    assert_int_equal(statistics(fixture).chunks_fetched, 0);
    assert_int_equal(statistics(fixture).reads_missed, 0);
}

static void pages_that_were_dropped_are_loaded(void **state)
{
    const struct fixture *fixture = *state;
    expect_read(fixture, 0, 200 * CHUNK_SIZE);
    while (chunk_state(fixture->device, 199) != CHUNK_PRESENT)
        usleep(1000);
    char *path = data_file(fixture);
    int descriptor = open(path, O_RDONLY);
    fsync(descriptor);
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    close(descriptor);
    free(path);
    unsigned requests = fake_requests(0);
    struct asked *asked[40];
    for (unsigned i = 0; i < 40; i++)
        asked[i] = ask(fixture->device, i * 50000u, 40000);
    for (unsigned i = 0; i < 40; i++)
        expect_bytes(fixture, asked[i], i * 50000u, 40000);
    expect_read(fixture, 190 * CHUNK_SIZE, 20 * CHUNK_SIZE); /* from the file and the registry */
    assert_true(fake_requests(0) > requests);
}

static void damaged_chunk_is_fetched_again(void **state)
{
    struct fixture *fixture = *state;
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    close_all(fixture);
    damage_chunk(fixture, 3);
    open_all(fixture, NULL);
    unsigned requests = fake_requests(0);
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    assert_int_equal(fake_requests(0), requests + 1);
    assert_int_equal(statistics(fixture).chunks_damaged, 1);
    reopen(fixture, NULL);
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    assert_int_equal(fake_requests(0), requests + 1);
}

static void file_cut_short_under_us_is_fetched_again(void **state)
{
    const struct fixture *fixture = *state;
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    while (chunk_state(fixture->device, 7) != CHUNK_PRESENT)
        usleep(1000);
    char *path = data_file(fixture);
    assert_int_equal(truncate(path, 2 * CHUNK_SIZE), 0);
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    expect_read(fixture, 0, 8 * CHUNK_SIZE);
    free(path);
}

static void two_caches_share_what_they_store(void **state)
{
    const struct fixture *fixture = *state;
    struct fixture other = *fixture;
    open_all(&other, NULL);
    expect_read(fixture, 0, 20 * CHUNK_SIZE);
    while (chunk_state(fixture->device, 19) != CHUNK_PRESENT)
        usleep(1000);
    unsigned requests = fake_requests(0);
    expect_read(&other, 0, 20 * CHUNK_SIZE);
    assert_int_equal(fake_requests(0), requests);
    close_all(&other);
    expect_read(fixture, 0, 30 * CHUNK_SIZE);
}

static void full_disk_fails_no_read(void **state)
{
    struct fixture *fixture = *state;
    const struct rlimit before = full_disk_begin(4 * CHUNK_SIZE);
    for (unsigned i = 0; i < 16; i++)
        expect_read(fixture, i * CHUNK_SIZE, 2 * CHUNK_SIZE);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    uint64_t errors = statistics(fixture).store_errors;
    full_disk_end(before);
    assert_true(errors > 0);
    assert_int_equal(statistics(fixture).read_errors, 0);
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
    expect_read(fixture, 10 * CHUNK_SIZE, 2 * CHUNK_SIZE);
    while (chunk_state(fixture->device, 10) != CHUNK_PRESENT)
        usleep(1000);
}

static void works_without_io_uring(void **state)
{
    struct fixture *fixture = *state;
    setenv("SLUICE_NO_IO_URING", "1", 1);
    reopen(fixture, NULL);
    assert_false(cache_uses_io_uring(fixture->cache));
    void (*const tests[])(void **) = { read_gives_the_streams_bytes,
                                       pages_that_were_dropped_are_loaded,
                                       damaged_chunk_is_fetched_again };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        fixture->source.table_digest.bytes[1]++; /* an empty layer in the cache */
        reopen(fixture, NULL);
        tests[i](state);
    }
    unsetenv("SLUICE_NO_IO_URING");
}

/* ---- a registry that fails ---- */

static void damaged_answer_is_asked_for_again(void **state)
{
    const struct fixture *fixture = *state;
    fake_corrupt(1, UINT64_MAX);
    expect_read(fixture, 7 * CHUNK_SIZE, 100);
    assert_int_equal(fake_requests(0), 2);
    assert_int_equal(statistics(fixture).chunks_damaged, 1);
    assert_int_equal(statistics(fixture).read_errors, 0);
}

static void answers_that_stay_damaged_are_not_served(void **state)
{
    const struct fixture *fixture = *state;
    fake_corrupt(UINT32_MAX, 7 * CHUNK_SIZE + 5);
    struct asked *bad = ask(fixture->device, 7 * CHUNK_SIZE, 100);
    expect_failure(bad);
    char *reason = data_path_last_error(fixture->path, NULL);
    assert_non_null(reason);
    assert_non_null(strstr(reason, "chunk 7"));
    free(reason);
    /* The other chunks of the same range are not to blame. */
    fake_hold(true);
    struct asked *before = ask(fixture->device, 0, 4 * CHUNK_SIZE);
    struct asked *across = ask(fixture->device, 5 * CHUNK_SIZE, 4 * CHUNK_SIZE);
    struct asked *behind = ask(fixture->device, 8 * CHUNK_SIZE, 2 * CHUNK_SIZE);
    fake_hold(false);
    expect_bytes(fixture, before, 0, 4 * CHUNK_SIZE);
    expect_failure(across);
    expect_bytes(fixture, behind, 8 * CHUNK_SIZE, 2 * CHUNK_SIZE);
    fake_corrupt(0, UINT64_MAX);
    expect_read(fixture, 5 * CHUNK_SIZE, 4 * CHUNK_SIZE);
}

static void registry_that_is_gone_fails_misses_only(void **state)
{
    const struct fixture *fixture = *state;
    struct asked *asked[20];
    expect_read(fixture, 0, CHUNK_SIZE);
    fake_be_unreachable(true);
    for (unsigned i = 0; i < 20; i++)
        asked[i] = ask(fixture->device, (i + 1) * 3 * CHUNK_SIZE, CHUNK_SIZE);
    for (unsigned i = 0; i < 20; i++)
        expect_failure(asked[i]);
    expect_read(fixture, 0, CHUNK_SIZE);
    char *reason = data_path_last_error(fixture->path, NULL);
    assert_non_null(strstr(reason, "does not answer"));
    free(reason);
    fake_be_unreachable(false);
    expect_read(fixture, 3 * CHUNK_SIZE, CHUNK_SIZE);
    assert_int_equal(statistics(fixture).read_errors, 20);
}

static void read_ends_when_nobody_answers(void **state)
{
    struct fixture *fixture = *state;
    reopen(fixture, &(struct data_path_options){ .read_timeout_ms = 50, .ranges_in_flight = 1 });
    fake_hold(true);
    struct asked *asked[30];
    for (unsigned i = 0; i < 30; i++)
        asked[i] = ask(fixture->device, (uint64_t)i * 9 * CHUNK_SIZE, 2 * CHUNK_SIZE);
    for (unsigned i = 0; i < 30; i++)
        expect_failure(asked[i]);
    /* Only what was under way is still fetched: nobody wants the rest. */
    assert_int_equal(statistics(fixture).chunks_in_flight, 2);
    fake_hold(false);
    reopen(fixture, NULL);
    expect_read(fixture, 12 * CHUNK_SIZE, 10);
}

/* Who has just come does not fail with those who have waited for a registry that stays away. */
static void late_reader_gets_time_of_its_own(void **state)
{
    struct fixture *fixture = *state;
    reopen(fixture, &(struct data_path_options){ .read_timeout_ms = 8000 });
    fake_try_in_vain(1);
    struct asked *early = ask(fixture->device, 0, 100);
    usleep(4000 * 1000);
    assert_false(is_answered(early));
    struct asked *late = ask(fixture->device, 50, 100);
    expect_failure(early);
    expect_bytes(fixture, late, 50, 100);
    assert_int_equal(statistics(fixture).read_errors, 1);
    char *reason = data_path_last_error(fixture->path, NULL);
    assert_non_null(strstr(reason, "does not answer"));
    free(reason);
}

static void closing_ends_reads_that_wait(void **state)
{
    struct fixture *fixture = *state;
    struct asked *asked[100];
    fake_hold(true);
    for (unsigned i = 0; i < 100; i++)
        asked[i] = ask(fixture->device, i * 3 * CHUNK_SIZE, 2 * CHUNK_SIZE);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    for (unsigned i = 0; i < 100; i++) {
        assert_true(is_answered(asked[i]));
        expect_failure(asked[i]);
    }
    fake_hold(false); /* the answers find nobody */
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
    expect_read(fixture, 0, 100);
}

static void closing_in_the_middle_of_everything(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned round = 0; round < 30; round++) {
        struct asked *asked[100];
        for (unsigned i = 0; i < 100; i++)
            asked[i] = ask(fixture->device, (i * 7 + round) % 900 * CHUNK_SIZE, 3 * CHUNK_SIZE);
        layer_device_close(fixture->device);
        for (unsigned i = 0; i < 100; i++) {
            assert_true(is_answered(asked[i]));
            asked_free(asked[i]);
        }
        assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL),
                         0);
    }
}

/* ---- memory ---- */

static void memory_stays_within_the_limit(void **state)
{
    struct fixture *fixture = *state;
    static struct asked *asked[CHUNKS];
    enum { LIMIT = 16 * CHUNK_SIZE };
    reopen(fixture, &(struct data_path_options){ .memory_limit = LIMIT, .ranges_in_flight = 100 });
    fake_hold(true);
    for (unsigned i = 0; i < CHUNKS; i++)
        asked[i] = ask(fixture->device, (uint64_t)i * CHUNK_SIZE, 1000);
    fake_wait_waiting(1);
    fake_hold(false);
    for (unsigned i = 0; i < CHUNKS; i++)
        expect_bytes(fixture, asked[i], (uint64_t)i * CHUNK_SIZE, 1000);
    assert_true(fake.waiting_bytes_most <= LIMIT);
    assert_true(fixture->path->memory.peak <= LIMIT);
    /* Nothing is counted for ever. */
    reopen(fixture, &(struct data_path_options){ .memory_limit = LIMIT });
    for (unsigned i = 0; i < CHUNKS; i++)
        asked[i] = ask(fixture->device, (uint64_t)i * CHUNK_SIZE, CHUNK_SIZE * 2);
    for (unsigned i = 0; i < CHUNKS; i++)
        expect_bytes(fixture, asked[i], (uint64_t)i * CHUNK_SIZE, CHUNK_SIZE * 2);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    assert_int_equal(fixture->path->memory.used, 0);
}

static void one_read_may_be_larger_than_the_limit(void **state)
{
    struct fixture *fixture = *state;
    reopen(fixture, &(struct data_path_options){ .memory_limit = 1 });
    expect_read(fixture, 0, 100 * CHUNK_SIZE);
    expect_read(fixture, 50 * CHUNK_SIZE, 100 * CHUNK_SIZE);
}

/* ---- all at once ---- */

struct reader {
    const struct fixture *fixture;
    pthread_t thread;
    uint32_t random;
    unsigned failures;
};

static void *read_at_random(void *argument)
{
    struct reader *reader = argument;
    const struct fixture *fixture = reader->fixture;
    for (unsigned i = 0; i < 400; i++) {
        reader->random = reader->random * 1664525 + 1013904223;
        uint64_t offset = (uint64_t)(reader->random >> 8) % STREAM;
        reader->random = reader->random * 1664525 + 1013904223;
        size_t length = (reader->random >> 8) % (3 * CHUNK_SIZE);
        struct asked *asked = ask(fixture->device, offset, length);
        ssize_t result = wait_answer(asked);
        if (result < 0)
            reader->failures++;
        else
            for (size_t j = 0; j < length; j++)
                if (asked->data[j] != (offset + j < STREAM ? fixture->layer.stream[offset + j] : 0))
                    abort();
        asked_free(asked);
    }
    return NULL;
}

static void many_readers_at_random(void **state)
{
    struct fixture *fixture = *state;
    struct reader readers[4];
    expect_read(fixture, 0, 250 * CHUNK_SIZE);
    close_all(fixture);
    for (uint32_t i = 0; i < 250; i += 3)
        damage_chunk(fixture, i);
    open_all(fixture, &(struct data_path_options){ .memory_limit = 64 * CHUNK_SIZE });
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){ .fixture = fixture, .random = i * 7919 };
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 40; i++) {
        usleep(2000);
        fake_corrupt(1, UINT64_MAX);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(readers[i].thread, NULL);
}

/* ---- hostile tables ---- */

static void impossible_tables_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct layer_device *device = NULL;
    struct chunk *chunk = &fixture->layer.table.chunks[5];
    const struct chunk good = *chunk;
    const struct chunk bad[] = {
        { .stream_offset = UINT64_MAX, .start = CHUNK_FRAME },
        { .stream_offset = 4 * CHUNK_SIZE, .start = CHUNK_FRAME },
        { .stream_offset = 5 * CHUNK_SIZE, .blob_offset = STREAM, .start = CHUNK_FRAME },
        { .stream_offset = 5 * CHUNK_SIZE, .start = CHUNK_WINDOW, .window = 1u << 31 },
        { .stream_offset = 6 * CHUNK_SIZE - 1, .start = CHUNK_FRAME },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        *chunk = bad[i];
        assert_int_equal(layer_device_open(fixture->path, &fixture->source, &device, NULL), -1);
    }
    *chunk = good;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(read_gives_the_streams_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(read_that_is_too_long_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunk_is_fetched_once_whoever_asks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(neighbours_come_in_one_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(neighbours_come_along_on_an_idle_link, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_read_of_two_chunks_brings_neighbours_too, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_busy_link_brings_no_neighbours, set_up, tear_down),
        cmocka_unit_test_setup_teardown(first_chunks_are_answered_while_the_rest_is_on_its_way,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_waits_for_no_answer_that_has_begun, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hit_is_answered_while_a_thousand_misses_wait, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(stored_chunks_need_no_registry, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pages_that_were_dropped_are_loaded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_chunk_is_fetched_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(file_cut_short_under_us_is_fetched_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(two_caches_share_what_they_store, set_up, tear_down),
        cmocka_unit_test_setup_teardown(full_disk_fails_no_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(works_without_io_uring, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_answer_is_asked_for_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_that_stay_damaged_are_not_served, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(registry_that_is_gone_fails_misses_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(read_ends_when_nobody_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(late_reader_gets_time_of_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_ends_reads_that_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_in_the_middle_of_everything, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_stays_within_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_read_may_be_larger_than_the_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_readers_at_random, set_up, tear_down),
        cmocka_unit_test_setup_teardown(impossible_tables_are_refused, set_up, tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
