/* The data path with the real registry client, over HTTP on the loopback interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "fuse/layer_device-internal.h"
#include "tests/unit/asked_read.h"
#include "tests/unit/late_answers.h"
#include "tests/unit/range_server.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 65536u
#define CHUNKS     100u
#define STREAM     ((size_t)CHUNKS * CHUNK_SIZE)

struct fixture {
    char *directory;
    char registry[40];
    uint8_t *stream;
    struct chunk_table table;
    struct range_server server;
    struct registry_client *client;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
};

static void make_layer(struct fixture *fixture)
{
    struct chunk_table *table = &fixture->table;
    fixture->stream = malloc(STREAM);
    for (size_t i = 0; i < STREAM; i++)
        fixture->stream[i] = (uint8_t)(i * 31 + i / 977);
    *table = (struct chunk_table){
        .kind = LAYER_TAR,
        .blob_length = STREAM,
        .stream_length = STREAM,
        .chunk_count = CHUNKS,
        .chunks = calloc(CHUNKS, sizeof *table->chunks),
    };
    digest_of(fixture->stream, STREAM, &table->blob_digest);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        table->chunks[i].stream_offset = table->chunks[i].blob_offset = (uint64_t)i * CHUNK_SIZE;
        digest_of(fixture->stream + (size_t)i * CHUNK_SIZE, CHUNK_SIZE, &table->chunks[i].digest);
    }
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct registry_options options = { .attempts = 1, .connections = 4 };
    struct data_path_options path_options = { .read_timeout_ms = 60000 };
    fixture->directory = temporary_directory_make();
    make_layer(fixture);
    fixture->server.blob = fixture->stream;
    fixture->server.length = STREAM;
    range_server_start(&fixture->server);
    snprintf(fixture->registry, sizeof fixture->registry, "127.0.0.1:%u", fixture->server.port);
    struct layer_device_source source = { .registry = fixture->registry,
                                          .repository = "test",
                                          .table = &fixture->table,
                                          .table_digest = { { 1 } } };
    fixture->client = registry_client_new(&options, NULL);
    assert_non_null(fixture->client);
    wait_for_late_answers(fixture->client);
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    assert_int_equal(
        data_path_new(&fixture->path, fixture->client, fixture->cache, &path_options, NULL), 0);
    assert_int_equal(layer_device_open(fixture->path, &source, &fixture->device, NULL), 0);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    layer_device_close(fixture->device);
    data_path_free(fixture->path);
    cache_free(fixture->cache);
    registry_client_free(fixture->client);
    range_server_stop(&fixture->server);
    temporary_directory_remove(fixture->directory);
    free(fixture->table.chunks);
    free(fixture->stream);
    free(fixture);
    return 0;
}

static void expect_read(const struct fixture *fixture, uint64_t offset, size_t length)
{
    expect_bytes_of(ask(fixture->device, offset, length), fixture->stream, STREAM, offset, length);
}

static void stream_comes_over_http(void **state)
{
    const struct fixture *fixture = *state;
    struct asked *asked[CHUNKS];
    for (unsigned i = 0; i < CHUNKS; i++)
        asked[i] = ask(fixture->device, (uint64_t)(i * 37 % CHUNKS) * CHUNK_SIZE, CHUNK_SIZE);
    for (unsigned i = 0; i < CHUNKS; i++)
        expect_bytes_of(asked[i], fixture->stream, STREAM, (uint64_t)(i * 37 % CHUNKS) * CHUNK_SIZE,
                        CHUNK_SIZE);
    struct data_path_statistics statistics;
    data_path_statistics(fixture->path, &statistics);
    assert_int_equal(statistics.bytes_fetched, STREAM);
    assert_true(fixture->server.ranges <= CHUNKS);
}

static void chunk_is_asked_for_once(void **state)
{
    struct fixture *fixture = *state;
    struct asked *asked[50];
    fixture->server.stalls = true;
    for (unsigned i = 0; i < 50; i++)
        asked[i] = ask(fixture->device, 5 * CHUNK_SIZE + i, 1000);
    fixture->server.stalls = false;
    for (unsigned i = 0; i < 50; i++)
        expect_bytes_of(asked[i], fixture->stream, STREAM, 5 * CHUNK_SIZE + i, 1000);
    assert_int_equal(fixture->server.ranges, 1);
}

static void server_goes_and_comes_back(void **state)
{
    struct fixture *fixture = *state;
    expect_read(fixture, 0, 100);
    range_server_stop(&fixture->server);
    struct asked *asked = ask(fixture->device, 3 * CHUNK_SIZE, 100);
    usleep(500 * 1000);
    assert_false(is_answered(asked));
    expect_read(fixture, 0, 100);
    range_server_start(&fixture->server);
    expect_bytes_of(asked, fixture->stream, STREAM, 3 * CHUNK_SIZE, 100);
}

static void closing_waits_for_no_server(void **state)
{
    struct fixture *fixture = *state;
    struct asked *asked[20];
    fixture->server.stalls = true;
    for (unsigned i = 0; i < 20; i++)
        asked[i] = ask(fixture->device, i * 3 * CHUNK_SIZE, 100);
    while (fixture->server.ranges < 4)
        usleep(1000);
    layer_device_close(fixture->device);
    fixture->device = NULL;
    for (unsigned i = 0; i < 20; i++)
        expect_failure(asked[i]);
    fixture->server.stalls = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stream_comes_over_http, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunk_is_asked_for_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(server_goes_and_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_waits_for_no_server, set_up, tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
