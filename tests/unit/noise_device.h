/* The device of a tar layer of noise, whose blob the fake registry has, with a cache of its own.
 * Include after cmocka.h. */
#ifndef SLUICE_TESTS_UNIT_NOISE_DEVICE_H
#define SLUICE_TESTS_UNIT_NOISE_DEVICE_H

#include <stdlib.h>

#include "fuse/layer_device-internal.h"
#include "tests/unit/fake_registry.h"
#include "tests/unit/tar_layer.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 16384u
#define CHUNKS     1200u
#define STREAM     ((uint64_t)CHUNKS * CHUNK_SIZE)

struct noise_device {
    char *directory;
    struct tar_layer layer;
    struct cache *cache;
    struct data_path *path;
    struct layer_device *device;
    uint32_t all[CHUNKS]; /* the numbers of its chunks */
};

static inline void noise_device_open(struct noise_device *noise,
                                     const struct data_path_options *options)
{
    const struct layer_device_source source = { .registry = "localhost:1",
                                                .repository = "test",
                                                .table = &noise->layer.table,
                                                .table_digest = { { 1 } } };
    assert_int_equal(cache_open(&noise->cache, noise->directory, NULL), 0);
    assert_int_equal(data_path_new(&noise->path, NULL, noise->cache, options, NULL), 0);
    assert_int_equal(layer_device_open(noise->path, &source, &noise->device, NULL), 0);
}

static inline void noise_device_close(struct noise_device *noise)
{
    layer_device_close(noise->device);
    data_path_free(noise->path);
    cache_free(noise->cache);
}

/* What is stored stays. */
static inline void noise_device_reopen(struct noise_device *noise,
                                       const struct data_path_options *options)
{
    noise_device_close(noise);
    noise_device_open(noise, options);
}

static inline int noise_device_set_up(void **state)
{
    struct noise_device *noise = calloc(1, sizeof *noise);
    assert_non_null(noise);
    noise->directory = temporary_directory_make();
    tar_layer_make(&noise->layer, STREAM, CHUNK_SIZE, 0);
    for (uint32_t i = 0; i < CHUNKS; i++)
        noise->all[i] = i;
    fake_start();
    fake.blobs[0] =
        (struct fake_blob){ noise->layer.table.blob_digest, noise->layer.stream, STREAM, 0 };
    noise_device_open(noise, NULL);
    *state = noise;
    return 0;
}

static inline int noise_device_tear_down(void **state)
{
    struct noise_device *noise = *state;
    noise_device_close(noise);
    fake_stop();
    temporary_directory_remove(noise->directory);
    tar_layer_free(&noise->layer);
    free(noise);
    return 0;
}

#endif
