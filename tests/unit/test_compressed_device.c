/*
 * The data path over layers as they are packed: gzip with windows, zstd frames,
 * one zstd frame without an end, and a stream that decodes to far more than it
 * is. Tables are made by the scanner, as for real images.
 */
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
#include "index/layer_scan.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/layer_packer.h"
#include "tests/unit/temporary_directory.h"

#define FILE_LENGTH (40u << 20)

struct fixture {
    char *directory;
    struct buffer stream, blob;
    struct layer_tables tables;
    struct layer_device_source source;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
};

/* ---- the fixture ---- */

static void open_all(struct fixture *fixture, const struct data_path_options *options)
{
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    assert_int_equal(data_path_new(&fixture->path, NULL, fixture->cache, options, NULL), 0);
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
}

static void close_all(struct fixture *fixture)
{
    layer_device_close(fixture->device);
    if (fixture->path) assert_int_equal(fixture->path->memory.used, 0);
    data_path_free(fixture->path);
    cache_free(fixture->cache);
    fixture->device = NULL;
    fixture->path = NULL;
    fixture->cache = NULL;
}

/* Scans `blob` and serves it. */
static void publish(struct fixture *fixture)
{
    struct memory_reader reader = { &fixture->blob, 0, SIZE_MAX };
    struct digest digest;
    digest_of(fixture->blob.data, fixture->blob.length, &digest);
    assert_int_equal(layer_scan(read_memory, &reader, fixture->blob.length, &digest, NULL,
                                &fixture->tables, NULL),
                     0);
    struct layer_device_source *source = &fixture->source;
    *source = (struct layer_device_source){ .registry = "localhost:1",
                                            .repository = "test",
                                            .table = fixture->tables.chunks,
                                            .table_digest = digest };
    digest_of(fixture->tables.windows.data, fixture->tables.windows.length,
              &source->windows_digest);
    fake.blobs[0] = (struct fake_blob){ digest, fixture->blob.data, fixture->blob.length, 0 };
    fake.blobs[1] = (struct fake_blob){ source->windows_digest, fixture->tables.windows.data,
                                        fixture->tables.windows.length, 0 };
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    fake_start();
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    close_all(fixture);
    fake_stop();
    temporary_directory_remove(fixture->directory);
    layer_tables_free(&fixture->tables);
    buffer_free(&fixture->stream);
    buffer_free(&fixture->blob);
    free(fixture);
    return 0;
}

static void expect_read(const struct fixture *fixture, uint64_t offset, size_t length)
{
    expect_bytes_of(ask(fixture->device, offset, length), fixture->stream.data,
                    fixture->stream.length, offset, length);
}

static void expect_whole_stream(const struct fixture *fixture, size_t step)
{
    for (uint64_t offset = 0; offset < fixture->stream.length; offset += step)
        expect_read(fixture, offset, step);
}

static void expect_random_reads(const struct fixture *fixture, unsigned count)
{
    uint32_t random = 99;
    for (unsigned i = 0; i < count; i++) {
        random = random * 1664525 + 1013904223;
        expect_read(fixture, random % fixture->stream.length, 1 + (random >> 8) % 100000);
    }
}

static struct data_path_statistics statistics(const struct fixture *fixture)
{
    struct data_path_statistics result;
    data_path_statistics(fixture->path, &result);
    return result;
}

/* ---- gzip ---- */

static void gzip_is_read_at_random(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    assert_true(fixture->tables.chunks->window_count > 8);
    open_all(fixture, NULL);
    expect_random_reads(fixture, 100);
    expect_whole_stream(fixture, 1 << 20);
    assert_true(statistics(fixture).window_bytes_fetched > 0);
    assert_true(statistics(fixture).window_bytes_fetched <= fixture->tables.windows.length);
    assert_int_equal(statistics(fixture).chunks_fetched, fixture->tables.chunks->chunk_count);
}

static void windows_are_kept_on_disk(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    open_all(fixture, NULL);
    expect_read(fixture, 20u << 20, 1000);
    close_all(fixture);
    unsigned requests = fake_requests(1);
    open_all(fixture, NULL);
    expect_read(fixture, 30u << 20, 1000);
    if (fixture->tables.chunks->group_count == 1) assert_int_equal(fake_requests(1), requests);
    assert_int_equal(fake_requests(0), 2);
}

static void windows_come_with_those_beside_them(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, 4 * FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    uint32_t groups = fixture->tables.chunks->group_count;
    assert_true(groups >= 4);
    open_all(fixture, &(struct data_path_options){ .neighbours = true });
    for (uint32_t i = 0; i < groups; i++) {
        const struct chunk *chunks = fixture->tables.chunks->chunks;
        expect_read(fixture, chunks[i * WINDOWS_PER_GROUP + 1].stream_offset, 1000);
        while (statistics(fixture).chunks_in_flight > 0)
            usleep(1000);
    }
    assert_true(fake_requests(1) <= groups / 2);
    expect_whole_stream(fixture, 1 << 20);
}

/* Alone, after they were wrong together with others. */
static void wrong_windows_beside_others_are_asked_for_again(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, 4 * FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    open_all(fixture, &(struct data_path_options){ .neighbours = true });
    fake_corrupt(2, UINT64_MAX);
    expect_random_reads(fixture, 50);
    expect_whole_stream(fixture, 1 << 20);
    assert_true(statistics(fixture).chunks_damaged > 0);
}

static void damaged_windows_are_asked_for_again(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    open_all(fixture, NULL);
    uint8_t *byte = &fixture->tables.windows.data[fixture->tables.windows.length / 2];
    *byte ^= 1;
    expect_failure(ask(fixture->device, 20u << 20, 1000));
    assert_int_equal(fake_requests(1), 3);
    char *reason = data_path_last_error(fixture->path, NULL);
    assert_non_null(strstr(reason, "windows"));
    free(reason);
    *byte ^= 1;
    expect_read(fixture, 20u << 20, 1000);
}

static void closing_while_windows_are_fetched(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    publish(fixture);
    open_all(fixture, NULL);
    fake_hold(true);
    struct asked *asked = ask(fixture->device, 20u << 20, 1000);
    fake_wait_waiting(2);
    layer_device_close(fixture->device);
    expect_failure(asked);
    fake_hold(false);
    assert_int_equal(layer_device_open(fixture->path, &fixture->source, &fixture->device, NULL), 0);
    expect_read(fixture, 20u << 20, 1000);
}

/* ---- zstd ---- */

static void zstd_frames_are_read_at_random(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, 300000);
    publish(fixture);
    open_all(fixture, NULL);
    expect_random_reads(fixture, 100);
    expect_whole_stream(fixture, 1 << 20);
    assert_int_equal(statistics(fixture).bytes_fetched, fixture->blob.length);
}

static void one_frame_read_forward_is_fetched_once(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    publish(fixture);
    assert_int_equal(chunk_table_checkpoint(fixture->tables.chunks, 5), 0);
    open_all(fixture, NULL);
    expect_whole_stream(fixture, 128 << 10);
    assert_int_equal(statistics(fixture).bytes_fetched, fixture->blob.length);
    /* One run may go on whatever is in use: a piece of the blob, two chunks, a decoder. */
    assert_true(fixture->path->memory.peak <= fixture->path->memory.limit + 3 * CHUNK_LENGTH_MAX +
                                                  chunk_decoder_memory_max(fixture->tables.chunks));
}

static void one_frame_is_not_fetched_beyond_what_is_wanted(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    publish(fixture);
    open_all(fixture, &(struct data_path_options){ .memory_limit = 4u << 20 });
    expect_read(fixture, 5u << 20, 1000);
    assert_true(statistics(fixture).bytes_fetched < fixture->blob.length / 2);
    /* What lay on the way is here now. */
    unsigned requests = fake_requests(0);
    expect_read(fixture, 0, 1000);
    expect_read(fixture, 4u << 20, 1000);
    assert_int_equal(fake_requests(0), requests);
    expect_random_reads(fixture, 100);
}

/* Of layers whose decoders need much memory one is decoded at a time, and one is kept to go on. */
static void windows_count_as_memory(void **state)
{
    struct fixture *fixture = *state;
    enum { LAYERS = 6, LIMIT = 4u << 20 };
    struct layer_device *devices[LAYERS];
    struct asked *asked[LAYERS];
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append_frame(&fixture->blob, fixture->stream.data, fixture->stream.length, 24);
    publish(fixture);
    assert_int_equal(fixture->tables.chunks->decoder_window, 1 << 24);
    open_all(fixture, &(struct data_path_options){ .memory_limit = LIMIT });
    for (unsigned i = 0; i < LAYERS; i++) {
        struct layer_device_source source = fixture->source;
        source.table_digest.bytes[0] ^= (uint8_t)(i + 1); /* a layer of its own for the cache */
        assert_int_equal(layer_device_open(fixture->path, &source, &devices[i], NULL), 0);
    }
    for (unsigned i = 0; i < LAYERS; i++)
        asked[i] = ask(devices[i], 20u << 20, 5000);
    for (unsigned i = 0; i < LAYERS; i++)
        expect_bytes_of(asked[i], fixture->stream.data, fixture->stream.length, 20u << 20, 5000);
    assert_true(fixture->path->memory.peak > 1u << 24);
    assert_true(fixture->path->memory.peak <= LIMIT + 2u * ((1u << 24) + 4 * CHUNK_LENGTH_MAX));
    for (unsigned i = 0; i < LAYERS; i++)
        layer_device_close(devices[i]);
}

/* An index that says too little of a decoder's memory does not get more. */
static void a_window_that_the_table_hides_is_refused(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, 4u << 20, false);
    zstd_append_frame(&fixture->blob, fixture->stream.data, fixture->stream.length, 22);
    publish(fixture);
    fixture->tables.chunks->decoder_window = 1u << 20;
    open_all(fixture, NULL);
    expect_failure(ask(fixture->device, 0, 1000));
    char *reason = data_path_last_error(fixture->path, NULL);
    assert_non_null(strstr(reason, "zstd"));
    free(reason);
}

static void one_frame_with_many_readers(void **state)
{
    struct fixture *fixture = *state;
    enum { READS = 40 };
    struct asked *asked[READS];
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    publish(fixture);
    open_all(fixture, NULL);
    for (unsigned i = 0; i < READS; i++)
        asked[i] = ask(fixture->device, (i * 7 % READS) << 20, 3000);
    for (unsigned i = 0; i < READS; i++)
        expect_bytes_of(asked[i], fixture->stream.data, fixture->stream.length,
                        (i * 7 % READS) << 20, 3000);
    assert_int_equal(statistics(fixture).bytes_fetched, fixture->blob.length);
}

static void damage_in_the_middle_of_a_frame_is_overcome(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    publish(fixture);
    open_all(fixture, &(struct data_path_options){ .memory_limit = 8u << 20 });
    fake_corrupt(1, fixture->blob.length / 2);
    expect_read(fixture, fixture->stream.length - 5000, 5000);
    fake_corrupt(UINT32_MAX, fixture->blob.length / 2);
    close_all(fixture);
    fixture->source.table_digest.bytes[0] ^= 1; /* an empty layer in the cache */
    open_all(fixture, &(struct data_path_options){ .memory_limit = 8u << 20 });
    expect_failure(ask(fixture->device, fixture->stream.length - 5000, 5000));
    expect_read(fixture, 0, 100000);
}

/* ---- many at once, with little memory and a registry that errs ---- */

struct reader {
    const struct fixture *fixture;
    pthread_t thread;
    uint32_t random;
};

static void *read_at_random(void *argument)
{
    struct reader *reader = argument;
    const struct buffer *stream = &reader->fixture->stream;
    for (unsigned i = 0; i < 100; i++) {
        reader->random = reader->random * 1664525 + 1013904223;
        uint64_t offset = (reader->random >> 4) % (stream->length - 300000);
        size_t length = 1 + (reader->random >> 6) % 300000;
        struct asked *asked = ask(reader->fixture->device, offset, length);
        ssize_t result = wait_answer(asked);
        if (result >= 0 &&
            (result != (ssize_t)length || memcmp(asked->data, stream->data + offset, length) != 0))
            abort();
        asked_free(asked);
    }
    return NULL;
}

static void read_with_four_threads(struct fixture *fixture)
{
    struct reader readers[4];
    publish(fixture);
    open_all(fixture, &(struct data_path_options){ .memory_limit = 6u << 20 });
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){ .fixture = fixture, .random = i * 7919 };
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 20; i++) {
        usleep(3000);
        fake_corrupt(1, UINT64_MAX);
        fake_be_unreachable(i % 4 == 3);
    }
    fake_be_unreachable(false);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(readers[i].thread, NULL);
    fake_corrupt(0, UINT64_MAX);
    expect_whole_stream(fixture, 1 << 20);
}

static void many_readers_of_gzip(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    gzip_append(&fixture->blob, fixture->stream.data, fixture->stream.length, 6,
                Z_DEFAULT_STRATEGY);
    read_with_four_threads(fixture);
}

static void many_readers_of_one_frame(void **state)
{
    struct fixture *fixture = *state;
    layer_of_words(&fixture->stream, FILE_LENGTH, false);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    read_with_four_threads(fixture);
}

/* ---- far more than it is ---- */

static void stream_of_zeros_stays_within_memory(void **state)
{
    struct fixture *fixture = *state;
    layer_of_zeros(&fixture->stream, FILE_LENGTH);
    zstd_append(&fixture->blob, &fixture->stream, SIZE_MAX);
    publish(fixture);
    open_all(fixture, &(struct data_path_options){ .memory_limit = 16u << 20 });
    expect_read(fixture, 35u << 20, 4096);
    expect_whole_stream(fixture, 4u << 20);
    /* One chunk may be on its way to a full budget. */
    assert_true(fixture->path->memory.peak <= (16u << 20) + CHUNK_LENGTH_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gzip_is_read_at_random, set_up, tear_down),
        cmocka_unit_test_setup_teardown(windows_are_kept_on_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(windows_come_with_those_beside_them, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_windows_beside_others_are_asked_for_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(damaged_windows_are_asked_for_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_while_windows_are_fetched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(zstd_frames_are_read_at_random, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_frame_read_forward_is_fetched_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_frame_is_not_fetched_beyond_what_is_wanted, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(windows_count_as_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_window_that_the_table_hides_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(one_frame_with_many_readers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_in_the_middle_of_a_frame_is_overcome, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(many_readers_of_gzip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_readers_of_one_frame, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stream_of_zeros_stays_within_memory, set_up, tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
