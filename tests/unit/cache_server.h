/*
 * Servers over one cache directory that is too small for the layer they serve,
 * and readers that abort at the first wrong byte. Include after cmocka.h.
 */
#ifndef SLUICE_TESTS_CACHE_SERVER_H
#define SLUICE_TESTS_CACHE_SERVER_H

#include <ftw.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

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

static inline void server_start(struct server *server, const struct fixture *fixture,
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

static inline void server_stop(struct server *server)
{
    layer_device_close(server->device);
    data_path_free(server->path);
    cache_free(server->cache);
}

static inline struct fixture *fixture_new(void)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    tar_layer_make(&fixture->layer, STREAM, CHUNK_SIZE, 3);
    return fixture;
}

static inline void fixture_free(struct fixture *fixture)
{
    temporary_directory_remove(fixture->directory);
    tar_layer_free(&fixture->layer);
    free(fixture);
}

/* The registry; where a test forks, after that. */
static inline void registry_start(const struct fixture *fixture)
{
    fake_start();
    fake.blobs[0] =
        (struct fake_blob){ fixture->layer.table.blob_digest, fixture->layer.stream, STREAM, 0 };
}

static inline int set_up(void **state)
{
    struct fixture *fixture = fixture_new();
    registry_start(fixture);
    *state = fixture;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *fixture = *state;
    fake_stop();
    fixture_free(fixture);
    return 0;
}

/* ---- looking at the directory ---- */

static uint64_t found_on_disk;

static inline int add_size(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)path, (void)walk;
    if (type == FTW_F) found_on_disk += (uint64_t)status->st_blocks * 512;
    return 0;
}

static inline uint64_t on_disk(const char *directory)
{
    found_on_disk = 0;
    nftw(directory, add_size, 16, FTW_PHYS);
    return found_on_disk;
}

static inline char *file_of_layer(const char *directory, const char *file)
{
    const struct digest key = { { 1 } };
    char hex[DIGEST_HEX_SIZE], *path = NULL;
    digest_format_hex(&key, hex);
    assert_true(asprintf(&path, "%s/layers/%s/%s", directory, hex, file) > 0);
    return path;
}

static inline void wait_milliseconds(unsigned milliseconds)
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

static inline uint32_t next_random(uint32_t *random)
{
    *random = *random * 1664525 + 1013904223;
    return *random >> 8;
}

static inline void *read_at_random(void *argument)
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

static inline void start_readers(struct reader readers[READERS], const struct server *servers,
                                 unsigned server_count, unsigned reads)
{
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){ .server = &servers[i % server_count],
                                      .random = i * 7919 + 1,
                                      .reads = reads };
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
}

static inline void join_readers(struct reader readers[READERS])
{
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
}

static inline void expect_all(const struct server *server)
{
    for (uint32_t i = 0; i < CHUNKS; i += 20) {
        uint64_t offset = (uint64_t)i * CHUNK_SIZE;
        struct asked *asked = ask(server->device, offset, 20 * CHUNK_SIZE);
        expect_bytes_of(asked, server->fixture->layer.stream, STREAM, offset, 20 * CHUNK_SIZE);
    }
}

#endif
