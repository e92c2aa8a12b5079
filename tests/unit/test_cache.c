/* The cache directory: what is stored comes back, what is damaged is as good as gone. */
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
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/cache_outcome.h"
#include "tests/unit/full_disk.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 65536u
#define CHUNKS     8u

struct fixture {
    char *directory;
    struct cache *cache;
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    if (cache_open(&fixture->cache, fixture->directory, NULL) < 0) return -1;
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    cache_free(fixture->cache);
    temporary_directory_remove(fixture->directory);
    free(fixture);
    return 0;
}

static ssize_t store(struct layer_cache *layer, uint32_t chunk, const void *data)
{
    return store_chunk(layer, chunk, (uint64_t)chunk * CHUNK_SIZE, data, CHUNK_SIZE);
}

static bool has(struct layer_cache *layer, uint32_t chunk)
{
    return layer_cache_generation(layer, chunk) != 0;
}

static void forget(struct layer_cache *layer, uint32_t chunk)
{
    layer_cache_forget(layer, chunk, layer_cache_generation(layer, chunk));
}

static struct layer_cache *open_layer(struct cache *cache)
{
    struct digest key;
    struct layer_cache *layer = NULL;
    digest_of("key", 3, &key);
    uint32_t lengths[CHUNKS];
    for (uint32_t i = 0; i < CHUNKS; i++)
        lengths[i] = i + 1 < CHUNKS ? CHUNK_SIZE : CHUNK_SIZE - 100;
    const struct layer_shape shape = { .stream_length = (uint64_t)CHUNKS * CHUNK_SIZE - 100,
                                       .chunk_count = CHUNKS,
                                       .lengths = lengths };
    assert_int_equal(layer_cache_open(cache, &key, &shape, &layer, NULL), 0);
    return layer;
}

static char *path_of(const struct fixture *fixture, const char *folder, const char *of_text,
                     const char *file)
{
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];
    char *path = NULL;
    digest_of(of_text, strlen(of_text), &digest);
    assert_true(asprintf(&path, "%s/%s/%s%s", fixture->directory, folder,
                         digest_format_hex(&digest, hex), file) > 0);
    return path;
}

static void overwrite(const char *path, uint64_t offset, const char *text)
{
    int descriptor = open(path, O_WRONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(pwrite(descriptor, text, strlen(text), (off_t)offset), strlen(text));
    close(descriptor);
}

/* Out of the page cache, so that reading goes through the ring. */
static void forget_pages(const char *path)
{
    int descriptor = open(path, O_RDONLY);
    assert_true(descriptor >= 0);
    assert_int_equal(fsync(descriptor), 0);
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    close(descriptor);
}

/* ---- the directory ---- */

static void refuses_directory_others_can_write(void **state)
{
    struct fixture *fixture = *state;
    struct cache *cache = NULL;
    struct error *error = NULL;
    assert_int_equal(chmod(fixture->directory, 0777), 0);
    assert_int_equal(cache_open(&cache, fixture->directory, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_DENIED);
    error_free(error);
}

static void refuses_directory_of_somebody_else(void **state)
{
    struct fixture *fixture = *state;
    struct cache *cache = NULL;
    struct error *error = NULL;
    if (geteuid() != 0) skip();
    assert_int_equal(chown(fixture->directory, 65534, 65534), 0);
    assert_int_equal(cache_open(&cache, fixture->directory, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_DENIED);
    error_free(error);
}

static void makes_private_directories(void **state)
{
    struct fixture *fixture = *state;
    struct cache *cache = NULL;
    struct stat status;
    char *path = NULL;
    assert_true(asprintf(&path, "%s/a/b", fixture->directory) > 0);
    mode_t before = umask(0);
    assert_int_equal(cache_open(&cache, path, NULL), 0);
    umask(before);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    cache_free(cache);
    free(path);
}

/* ---- blobs and names ---- */

static void blob_comes_back_until_damaged(void **state)
{
    struct fixture *fixture = *state;
    struct digest digest;
    struct buffer data = { 0 };
    struct error *error = NULL;
    digest_of("hello", 5, &digest);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    error_free(error);
    error = NULL;

    assert_int_equal(cache_put_blob(fixture->cache, &digest, "hello", 5, NULL), 0);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, NULL), 0);
    assert_int_equal(data.length, 5);
    assert_memory_equal(data.data, "hello", 5);

    char *path = path_of(fixture, "blobs", "hello", "");
    overwrite(path, 1, "E");
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    assert_int_equal(data.length, 5);
    assert_int_equal(access(path, F_OK), -1);
    error_free(error);
    free(path);
    buffer_free(&data);
}

static void blob_larger_than_expected_is_not_read(void **state)
{
    struct fixture *fixture = *state;
    struct digest digest;
    struct buffer data = { 0 };
    digest_of("hello", 5, &digest);
    assert_int_equal(cache_put_blob(fixture->cache, &digest, "hello", 5, NULL), 0);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 4, &data, NULL), -1);
    buffer_free(&data);
}

static void odd_things_in_place_of_blob_do_not_hang(void **state)
{
    struct fixture *fixture = *state;
    struct digest digest;
    struct buffer data = { 0 };
    digest_of("hello", 5, &digest);
    char *path = path_of(fixture, "blobs", "hello", "");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, NULL), -1);
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, NULL), -1);
    assert_int_equal(cache_put_blob(fixture->cache, &digest, "hello", 5, NULL), 0);
    assert_int_equal(cache_get_blob(fixture->cache, &digest, 100, &data, NULL), 0);
    free(path);
    buffer_free(&data);
}

static void name_means_what_was_last_remembered(void **state)
{
    struct fixture *fixture = *state;
    struct buffer data = { 0 };
    assert_int_equal(cache_recall(fixture->cache, "a:1", 100, &data, NULL), -1);
    assert_int_equal(cache_remember(fixture->cache, "a:1", "{}", 2, NULL), 0);
    assert_int_equal(cache_remember(fixture->cache, "a:1", "{1}", 3, NULL), 0);
    assert_int_equal(cache_recall(fixture->cache, "a:1", 100, &data, NULL), 0);
    assert_int_equal(data.length, 3);
    assert_memory_equal(data.data, "{1}", 3);

    char *path = path_of(fixture, "names", "a:1", "");
    overwrite(path, DIGEST_BYTES, "[");
    struct error *error = NULL;
    assert_int_equal(cache_recall(fixture->cache, "a:1", 100, &data, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    error_free(error);
    free(path);
    buffer_free(&data);
}

/* ---- layers ---- */

static void chunk_is_read_after_reopening(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[CHUNK_SIZE], read[CHUNK_SIZE];
    memset(data, 'x', sizeof data);
    struct layer_cache *layer = open_layer(fixture->cache);
    assert_false(has(layer, 3));
    assert_int_equal(store(layer, 3, data), CHUNK_SIZE);
    assert_true(has(layer, 3));
    layer_cache_close(layer);

    layer = open_layer(fixture->cache);
    assert_true(has(layer, 3));
    assert_false(has(layer, 2));
    char *path = path_of(fixture, "layers", "key", "/data");
    forget_pages(path);
    assert_int_equal(load_bytes(layer, 3 * CHUNK_SIZE, read, CHUNK_SIZE), CHUNK_SIZE);
    assert_memory_equal(read, data, CHUNK_SIZE);
    forget(layer, 3);
    assert_false(has(layer, 3));
    layer_cache_close(layer);
    layer = open_layer(fixture->cache);
    assert_false(has(layer, 3));
    layer_cache_close(layer);
    free(path);
}

static void reads_outside_the_layer_are_refused(void **state)
{
    struct fixture *fixture = *state;
    uint8_t byte;
    struct layer_cache *layer = open_layer(fixture->cache);
    assert_int_equal(load_bytes(layer, CHUNKS * CHUNK_SIZE, &byte, 1), -EINVAL);
    assert_int_equal(load_bytes(layer, UINT64_MAX, &byte, 1), -EINVAL);
    assert_int_equal(load_bytes(layer, 0, &byte, SIZE_MAX), -EINVAL);
    assert_false(has(layer, CHUNKS));
    forget(layer, UINT32_MAX);
    layer_cache_close(layer);
}

static void other_cache_on_the_directory_sees_the_chunk(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[CHUNK_SIZE], read[CHUNK_SIZE];
    struct cache *other = NULL;
    memset(data, 'y', sizeof data);
    assert_int_equal(cache_open(&other, fixture->directory, NULL), 0);
    struct layer_cache *mine = open_layer(fixture->cache), *theirs = open_layer(other);
    assert_int_equal(store(theirs, 5, data), CHUNK_SIZE);
    assert_true(has(mine, 5));
    assert_int_equal(load_bytes(mine, 5 * CHUNK_SIZE, read, CHUNK_SIZE), CHUNK_SIZE);
    assert_memory_equal(read, data, CHUNK_SIZE);
    layer_cache_close(mine);
    layer_cache_close(theirs);
    cache_free(other);
}

static void file_of_wrong_size_is_made_anew(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[CHUNK_SIZE], read[CHUNK_SIZE];
    struct layer_cache *layer = open_layer(fixture->cache);
    char *present = path_of(fixture, "layers", "key", "/chunks");
    char *stream = path_of(fixture, "layers", "key", "/data");
    assert_int_equal(truncate(present, 3), 0);
    assert_int_equal(truncate(stream, 10), 0);
    struct layer_cache *again = open_layer(fixture->cache);
    assert_int_equal(store(again, 7, data), CHUNK_SIZE);
    assert_int_equal(load_bytes(again, 7 * CHUNK_SIZE, read, CHUNK_SIZE), CHUNK_SIZE);
    /* Who had the damaged file open gets short reads, no crash. */
    assert_int_equal(load_bytes(layer, 7 * CHUNK_SIZE, read, CHUNK_SIZE), 0);
    layer_cache_close(again);
    layer_cache_close(layer);
    free(present);
    free(stream);
}

static void write_that_fails_leaves_the_chunk_absent(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[CHUNK_SIZE];
    struct layer_cache *layer = open_layer(fixture->cache);
    const struct rlimit before = full_disk_begin(CHUNK_SIZE + 1000);
    ssize_t result = store(layer, 1, data);
    full_disk_end(before);
    assert_true(result < 0);
    assert_false(has(layer, 1));
    assert_int_equal(store(layer, 1, data), CHUNK_SIZE);
    layer_cache_close(layer);
}

/* Else the file would be long enough again for reads of what was cut off, and zeros there. */
static void file_that_was_cut_off_does_not_grow_again(void **state)
{
    const struct fixture *fixture = *state;
    static uint8_t data[CHUNK_SIZE], found[CHUNK_SIZE];
    memset(data, 'x', sizeof data);
    struct layer_cache *layer = open_layer(fixture->cache);
    assert_int_equal(store(layer, 1, data), CHUNK_SIZE);
    char *path = path_of(fixture, "layers", "key", "/data");
    assert_int_equal(truncate(path, 0), 0);
    free(path);
    assert_int_equal(store(layer, 5, data), -ESTALE);
    assert_false(has(layer, 5));
    assert_int_equal(load_bytes(layer, CHUNK_SIZE, found, CHUNK_SIZE), 0);
    layer_cache_close(layer);

    layer = open_layer(fixture->cache);
    assert_false(has(layer, 1));
    assert_int_equal(store(layer, 5, data), CHUNK_SIZE);
    layer_cache_close(layer);
}

static void many_requests_at_once_all_end(void **state)
{
    struct fixture *fixture = *state;
    enum { REQUESTS = 2000 };
    static uint8_t data[CHUNK_SIZE], pages[REQUESTS][512];
    memset(data, 'z', sizeof data);
    struct layer_cache *layer = open_layer(fixture->cache);
    for (uint32_t i = 0; i < CHUNKS; i++)
        store(layer, i, data);
    char *path = path_of(fixture, "layers", "key", "/data");
    forget_pages(path);
    struct outcome outcome = outcome_of_nothing();
    unsigned at_once = 0;
    for (unsigned i = 0; i < REQUESTS; i++) {
        ssize_t result = layer_cache_read(layer, (uint64_t)(i % 1000) * 512, pages[i], 512,
                                          note_outcome, &outcome);
        if (result != -EINPROGRESS) {
            assert_int_equal(result, 512);
            at_once++;
        }
        layer_cache_drop_behind(layer, (uint64_t)(i % 50) * 4096, 4096);
    }
    layer_cache_close(layer); /* waits */
    assert_int_equal(outcome.count + at_once, REQUESTS);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_memory_equal(pages[i], data, 512);
    free(path);
}

static void works_without_io_uring(void **state)
{
    struct fixture *fixture = *state;
    cache_free(fixture->cache);
    setenv("SLUICE_NO_IO_URING", "1", 1);
    assert_int_equal(cache_open(&fixture->cache, fixture->directory, NULL), 0);
    unsetenv("SLUICE_NO_IO_URING");
    assert_false(cache_uses_io_uring(fixture->cache));
    chunk_is_read_after_reopening(state);
    file_of_wrong_size_is_made_anew(state);
    write_that_fails_leaves_the_chunk_absent(state);
    many_requests_at_once_all_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_directory_others_can_write, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_directory_of_somebody_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(makes_private_directories, set_up, tear_down),
        cmocka_unit_test_setup_teardown(blob_comes_back_until_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(blob_larger_than_expected_is_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(odd_things_in_place_of_blob_do_not_hang, set_up, tear_down),
        cmocka_unit_test_setup_teardown(name_means_what_was_last_remembered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunk_is_read_after_reopening, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_outside_the_layer_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_cache_on_the_directory_sees_the_chunk, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(file_of_wrong_size_is_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(write_that_fails_leaves_the_chunk_absent, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(file_that_was_cut_off_does_not_grow_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(many_requests_at_once_all_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(works_without_io_uring, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
