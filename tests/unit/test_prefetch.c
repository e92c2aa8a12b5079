/* What a profile names is fetched ahead in few requests, and what goes wrong with that is nobody's
 * problem; and what is read first is what is recorded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "fuse/prefetch.h"
#include "fuse/recorder.h"
#include "index/layer_scan.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/layer_packer.h"
#include "tests/unit/temporary_directory.h"

#define FILE_LENGTH (40u << 20)
#define BLOB        0u
#define WINDOWS     1u

/* Packed once, for it takes longer than the tests. */
static struct {
    struct buffer stream, blob;
    struct layer_tables tables;
    struct digest blob_digest, windows_digest;
} layer;

struct fixture {
    char *directory;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
    struct prefetch *prefetch;
};

static int pack_layer(void **state)
{
    (void)state;
    layer_of_words(&layer.stream, FILE_LENGTH, false);
    gzip_append(&layer.blob, layer.stream.data, layer.stream.length, 6, Z_DEFAULT_STRATEGY);
    struct memory_reader reader = { &layer.blob, 0, SIZE_MAX };
    digest_of(layer.blob.data, layer.blob.length, &layer.blob_digest);
    assert_int_equal(layer_scan(read_memory, &reader, layer.blob.length, &layer.blob_digest, NULL,
                                &layer.tables, NULL),
                     0);
    digest_of(layer.tables.windows.data, layer.tables.windows.length, &layer.windows_digest);
    return 0;
}

static int drop_layer(void **state)
{
    (void)state;
    layer_tables_free(&layer.tables);
    buffer_free(&layer.stream);
    buffer_free(&layer.blob);
    return 0;
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct layer_device_source source = { .registry = "localhost:1",
                                          .repository = "test",
                                          .table = layer.tables.chunks,
                                          .table_digest = layer.blob_digest,
                                          .windows_digest = layer.windows_digest };
    fixture->directory = temporary_directory_make();
    fake_start();
    fake.blobs[BLOB] =
        (struct fake_blob){ layer.blob_digest, layer.blob.data, layer.blob.length, 0 };
    fake.blobs[WINDOWS] = (struct fake_blob){ layer.windows_digest, layer.tables.windows.data,
                                              layer.tables.windows.length, 0 };
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    assert_int_equal(data_path_new(&fixture->path, NULL, fixture->cache, NULL, NULL), 0);
    assert_int_equal(layer_device_open(fixture->path, &source, &fixture->device, NULL), 0);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    prefetch_end(fixture->prefetch);
    layer_device_close(fixture->device);
    data_path_free(fixture->path);
    cache_free(fixture->cache);
    fake_stop();
    temporary_directory_remove(fixture->directory);
    free(fixture);
    return 0;
}

/* Plays a profile of these entries of {first, count}. */
static void play(struct fixture *fixture, const uint32_t (*entries)[2], size_t count,
                 uint64_t limit)
{
    struct profile_entry list[16] = { { 0 } };
    struct profile profile = { .entries = list, .entry_count = count };
    for (size_t i = 0; i < count; i++)
        list[i] = (struct profile_entry){ .first = entries[i][0],
                                          .count = entries[i][1],
                                          .path = PROFILE_NO_PATH };
    assert_int_equal(
        prefetch_start(&fixture->prefetch, fixture->path, &fixture->device, &profile, limit, NULL),
        0);
}

static struct prefetch_progress wait_for_end(struct fixture *fixture)
{
    struct prefetch_progress progress;
    do {
        usleep(1000);
        prefetch_progress(fixture->prefetch, &progress);
    } while (progress.state == PREFETCH_RUNNING);
    return progress;
}

static void expect_chunk(const struct fixture *fixture, uint32_t chunk)
{
    uint64_t offset = layer.tables.chunks->chunks[chunk].stream_offset;
    size_t length = (size_t)chunk_length(layer.tables.chunks, chunk);
    expect_bytes_of(ask(fixture->device, offset, length), layer.stream.data, layer.stream.length,
                    offset, length);
}

static void what_is_named_is_there_without_the_registry(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 30, 3 }, { 2, 1 }, { 33, 2 }, { 60, 1 } };
    play(fixture, entries, 4, 0);
    struct prefetch_progress progress = wait_for_end(fixture);
    assert_int_equal(progress.state, PREFETCH_DONE);
    assert_int_equal(progress.chunks, 7);
    assert_int_equal(progress.chunks_here, 7);
    assert_int_equal(progress.bytes_here, progress.bytes);
    assert_int_equal(progress.chunks_read, 0);
    assert_int_equal(fake_requests(BLOB), 3);
    fake_be_unreachable(true);
    expect_chunk(fixture, 31);
    expect_chunk(fixture, 34);
    expect_chunk(fixture, 2);
    prefetch_progress(fixture->prefetch, &progress);
    assert_int_equal(progress.chunks_read, 3);
    assert_int_equal(progress.bytes_read, chunk_length(layer.tables.chunks, 31) +
                                              chunk_length(layer.tables.chunks, 34) +
                                              chunk_length(layer.tables.chunks, 2));
}

static void small_gaps_are_filled_and_windows_come_together(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 40, 20 }, { 1, 20 }, { 22, 10 }, { 61, 3 } };
    fake.single = true;
    play(fixture, entries, 4, 0);
    struct prefetch_progress progress = wait_for_end(fixture);
    assert_int_equal(progress.chunks, 55); /* 21 and 60 come along */
    assert_int_equal(progress.chunks_here, 55);
    /* In pieces of at most 2 MiB, two chunks of which need windows of another group. */
    uint64_t bytes = layer.tables.chunks->chunks[64].blob_offset;
    assert_true(fake_requests(BLOB) <= 2 + bytes / (1u << 20));
    assert_true(fake_requests(WINDOWS) <= 2);
}

/* A reader who goes forward has what comes next fetched, unless a profile knows better. */
static void what_a_profile_ends_with_is_not_guessed_beyond(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 10, 20 } };
    uint32_t chunks;
    uint64_t bytes;
    play(fixture, entries, 1, 0);
    wait_for_end(fixture);
    unsigned requests = fake_requests(BLOB);
    for (uint32_t chunk = 10; chunk < 31; chunk++)
        expect_chunk(fixture, chunk);
    do {
        usleep(1000);
        layer_device_presence(fixture->device, &chunks, &bytes);
    } while (chunks < 21);
    assert_int_equal(fake_requests(BLOB), requests + 1);
}

static const uint32_t scattered[][2] = { { 70, 1 }, { 3, 2 },  { 55, 1 }, { 40, 1 },
                                         { 10, 1 }, { 25, 1 }, { 80, 1 }, { 62, 1 } };

static void places_far_apart_are_asked_for_together(void **state)
{
    struct fixture *fixture = *state;
    play(fixture, scattered, 8, 0);
    assert_int_equal(wait_for_end(fixture).chunks_here, 9);
    assert_int_equal(fake_requests(BLOB), 8);
    /* One request for them, and one for their windows. */
    assert_int_equal(fake.joined, fake_requests(BLOB) + fake_requests(WINDOWS) - 2);
    for (uint32_t i = 0; i < 8; i++)
        expect_chunk(fixture, scattered[i][0]);
    assert_int_equal(fake_requests(BLOB), 8);
    /* A reader does not wait for others. */
    unsigned joined = fake.joined;
    expect_chunk(fixture, 100);
    assert_int_equal(fake.joined, joined);
}

static void a_host_that_gives_one_range_is_asked_for_each(void **state)
{
    struct fixture *fixture = *state;
    fake.single = true;
    play(fixture, scattered, 8, 0);
    assert_int_equal(wait_for_end(fixture).chunks_here, 9);
    assert_int_equal(fake_requests(BLOB), 8);
    assert_int_equal(fake.joined, 0);
}

static void the_limit_holds(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 0, 60 } };
    uint64_t limit = layer.tables.chunks->chunks[10].stream_offset + 1;
    play(fixture, entries, 1, limit);
    struct prefetch_progress progress = wait_for_end(fixture);
    assert_int_equal(progress.state, PREFETCH_LIMITED);
    assert_int_equal(progress.chunks_here, 10);
}

static void a_registry_that_gives_nothing_is_not_asked_for_ever(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 0, 1 },  { 10, 1 }, { 20, 1 }, { 30, 1 }, { 40, 1 },
                                           { 50, 1 }, { 60, 1 }, { 70, 1 }, { 80, 1 } };
    log_set_level(LOG_ERROR);
    fake_be_unreachable(true);
    play(fixture, entries, 9, 0);
    struct prefetch_progress progress = wait_for_end(fixture);
    log_set_level(LOG_WARNING);
    assert_int_equal(progress.state, PREFETCH_STOPPED);
    assert_int_equal(progress.chunks_here, 0);
    fake_be_unreachable(false);
    expect_chunk(fixture, 10);
}

static void windows_that_are_wrong_are_asked_for_again(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 30, 2 } };
    fake_corrupt(
        1, layer.tables.chunks->groups[layer.tables.chunks->chunks[30].window / WINDOWS_PER_GROUP]
               .offset);
    play(fixture, entries, 1, 0);
    assert_int_equal(wait_for_end(fixture).chunks_here, 2);
    fake_be_unreachable(true);
    expect_chunk(fixture, 30);
}

static void it_ends_while_everything_is_awaited(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t entries[][2] = { { 30, 3 }, { 2, 1 } };
    fake_hold(true);
    play(fixture, entries, 2, 0);
    fake_wait_waiting(1);
    prefetch_end(fixture->prefetch);
    fixture->prefetch = NULL;
    fake_hold(false);
    expect_chunk(fixture, 30);
}

static void first_reads_are_recorded_in_their_order(void **state)
{
    struct fixture *fixture = *state;
    struct recorder *recorder;
    struct recorded_touch *touches;
    assert_int_equal(recorder_new(&recorder, fixture->path, &fixture->device, 1, NULL), 0);
    uint64_t inside = layer.tables.chunks->chunks[20].stream_offset + 700;
    expect_bytes_of(ask(fixture->device, inside, 100), layer.stream.data, layer.stream.length,
                    inside, 100);
    expect_chunk(fixture, 5);
    expect_chunk(fixture, 20);
    assert_int_equal(recorder_touches(recorder, &touches), 2);
    assert_int_equal(touches[0].chunk, 20);
    assert_int_equal(touches[0].offset, inside);
    assert_int_equal(touches[1].chunk, 5);
    assert_true(touches[1].milliseconds >= touches[0].milliseconds);
    free(touches);
    recorder_free(recorder);
    assert_true(layer_device_was_read(fixture->device, 5));
    assert_false(layer_device_was_read(fixture->device, 6));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_named_is_there_without_the_registry),
        TEST(small_gaps_are_filled_and_windows_come_together),
        TEST(what_a_profile_ends_with_is_not_guessed_beyond),
        TEST(places_far_apart_are_asked_for_together),
        TEST(a_host_that_gives_one_range_is_asked_for_each),
        TEST(the_limit_holds),
        TEST(a_registry_that_gives_nothing_is_not_asked_for_ever),
        TEST(windows_that_are_wrong_are_asked_for_again),
        TEST(it_ends_while_everything_is_awaited),
        TEST(first_reads_are_recorded_in_their_order),
    };
    return cmocka_run_group_tests(tests, pack_layer, drop_layer);
}
