/* Sealed layers: what was read back counts until the file changes, and what a kernel may have is
 * never taken away under it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/cache_outcome.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE    200000u /* borders of chunks are not those of pages */
#define CHUNKS        12u
#define STREAM_LENGTH ((uint64_t)CHUNKS * CHUNK_SIZE - 777)

struct fixture {
    char *directory;
    struct cache *cache;
    struct layer_cache *layer;
    uint8_t *stream;
    uint32_t lengths[CHUNKS];
    struct digest chunks[CHUNKS], whole;
    atomic_bool cancel;
    uint64_t seen; /* bytes that the reader of a seal got */
};

static struct layer_shape shape_of(const struct fixture *fixture)
{
    return (struct layer_shape){ .stream_length = STREAM_LENGTH,
                                 .chunk_count = CHUNKS,
                                 .lengths = fixture->lengths };
}

static struct digest key_of_layer(void)
{
    struct digest key;
    digest_of("key", 3, &key);
    return key;
}

static struct layer_cache *open_layer(const struct fixture *fixture, struct cache *cache)
{
    struct layer_cache *layer = NULL;
    const struct layer_shape shape = shape_of(fixture);
    const struct digest key = key_of_layer();
    assert_int_equal(layer_cache_open(cache, &key, &shape, &layer, NULL), 0);
    return layer;
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    fixture->stream = malloc(STREAM_LENGTH);
    for (uint64_t i = 0; i < STREAM_LENGTH; i++)
        fixture->stream[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        fixture->lengths[i] = i + 1 < CHUNKS ? CHUNK_SIZE : CHUNK_SIZE - 777;
        digest_of(fixture->stream + (size_t)i * CHUNK_SIZE, fixture->lengths[i],
                  &fixture->chunks[i]);
    }
    digest_of(fixture->stream, STREAM_LENGTH, &fixture->whole);
    if (cache_open(&fixture->cache, fixture->directory, NULL) < 0) return -1;
    fixture->layer = open_layer(fixture, fixture->cache);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    layer_cache_close(fixture->layer);
    cache_free(fixture->cache);
    temporary_directory_remove(fixture->directory);
    free(fixture->stream);
    free(fixture);
    return 0;
}

/* ---- storing and sealing ---- */

static ssize_t store(const struct fixture *fixture, struct layer_cache *layer, uint32_t chunk)
{
    uint64_t offset = (uint64_t)chunk * CHUNK_SIZE;
    return store_chunk(layer, chunk, offset, fixture->stream + offset, fixture->lengths[chunk]);
}

static void store_all(const struct fixture *fixture)
{
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(store(fixture, fixture->layer, i), fixture->lengths[i]);
}

static int see_bytes(void *context, const void *data, size_t length, struct error **error)
{
    struct fixture *fixture = context;
    (void)error;
    assert_true(length <= STREAM_LENGTH - fixture->seen);
    assert_memory_equal(data, fixture->stream + fixture->seen, length);
    fixture->seen += length;
    return 0;
}

static int give_note(void *context, struct digest *ret_note, struct error **error)
{
    const struct fixture *fixture = context;
    (void)error;
    assert_int_equal(fixture->seen, STREAM_LENGTH);
    digest_of("note", 4, ret_note);
    return 0;
}

static struct layer_seal seal_of(struct fixture *fixture)
{
    return (struct layer_seal){ .chunks = fixture->chunks,
                                .stream = fixture->whole,
                                .end = give_note,
                                .read = see_bytes,
                                .context = fixture,
                                .cancel = &fixture->cancel };
}

/* The kind of error, or 0. */
static int try_to_seal(struct fixture *fixture, const struct layer_seal *seal,
                       uint32_t *ret_damaged)
{
    struct error *error = NULL;
    fixture->seen = 0;
    if (layer_cache_seal(fixture->layer, seal, ret_damaged, &error) == 0) return 0;
    int kind = (int)error_kind_of(error);
    error_free(error);
    return kind;
}

static void seal_layer(struct fixture *fixture)
{
    uint32_t damaged = 1;
    const struct layer_seal seal = seal_of(fixture);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), 0);
    assert_int_equal(damaged, 0);
}

static bool is_sealed(struct layer_cache *layer)
{
    struct digest note, expected;
    digest_of("note", 4, &expected);
    if (!layer_cache_is_sealed(layer, &note)) return false;
    assert_true(digest_equal(&note, &expected));
    return true;
}

/* ---- the layer's files ---- */

static char *path_of(const struct fixture *fixture, const char *file)
{
    char hex[DIGEST_HEX_SIZE], *path = NULL;
    const struct digest key = key_of_layer();
    assert_true(asprintf(&path, "%s/layers/%s/%s", fixture->directory, digest_format_hex(&key, hex),
                         file) > 0);
    return path;
}

static void damage(const struct fixture *fixture, uint64_t offset)
{
    char *path = path_of(fixture, "data");
    int file = open(path, O_WRONLY);
    assert_int_equal(pwrite(file, "damage", 6, (off_t)offset), 6);
    close(file);
    free(path);
}

static void expect_stream(const struct fixture *fixture, int descriptor)
{
    uint8_t *found = malloc(STREAM_LENGTH);
    assert_int_equal(pread(descriptor, found, STREAM_LENGTH, 0), STREAM_LENGTH);
    assert_memory_equal(found, fixture->stream, STREAM_LENGTH);
    free(found);
}

static void prune_all(struct cache *cache)
{
    uint64_t freed;
    assert_int_equal(cache_prune(cache, 0, &freed, NULL), 0);
}

/* ---- what a seal is worth ---- */

static void holds_for_other_servers_and_later(void **state)
{
    struct fixture *fixture = *state;
    struct cache *other;
    store_all(fixture);
    assert_false(is_sealed(fixture->layer));
    seal_layer(fixture);
    assert_true(is_sealed(fixture->layer));
    layer_cache_close(fixture->layer);
    assert_int_equal(cache_open(&other, fixture->directory, NULL), 0);
    fixture->layer = open_layer(fixture, other);
    assert_true(is_sealed(fixture->layer));
    layer_cache_close(fixture->layer);
    cache_free(other);
    fixture->layer = open_layer(fixture, fixture->cache);
}

static void needs_every_chunk(void **state)
{
    struct fixture *fixture = *state;
    uint32_t damaged;
    const struct layer_seal seal = seal_of(fixture);
    for (uint32_t i = 0; i + 1 < CHUNKS; i++)
        store(fixture, fixture->layer, i);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), ERROR_NOT_FOUND);
    assert_int_equal(damaged, 0);
    assert_false(is_sealed(fixture->layer));
}

static void ends_when_the_file_changes(void **state)
{
    struct fixture *fixture = *state;
    int descriptor = -1;
    store_all(fixture);
    seal_layer(fixture);
    damage(fixture, 5);
    assert_false(is_sealed(fixture->layer));
    struct error *error = NULL;
    assert_int_equal(layer_cache_open_sealed(fixture->layer, &descriptor, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    error_free(error);
}

static void ends_with_a_chunk(void **state)
{
    struct fixture *fixture = *state;
    store_all(fixture);
    seal_layer(fixture);
    layer_cache_forget(fixture->layer, 3, layer_cache_generation(fixture->layer, 3));
    assert_false(is_sealed(fixture->layer));
}

static void damage_is_found_and_only_that_chunk_goes(void **state)
{
    struct fixture *fixture = *state;
    uint32_t damaged;
    const struct layer_seal seal = seal_of(fixture);
    store_all(fixture);
    damage(fixture, 4 * CHUNK_SIZE + 10);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), ERROR_NOT_FOUND);
    assert_int_equal(damaged, 1);
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(layer_cache_generation(fixture->layer, i) == 0, i == 4);
    assert_int_equal(store(fixture, fixture->layer, 4), fixture->lengths[4]);
    seal_layer(fixture);
}

/* The kernel would show what is behind the stream's end. */
static void bytes_behind_the_stream_are_zeros(void **state)
{
    struct fixture *fixture = *state;
    uint32_t damaged;
    const struct layer_seal seal = seal_of(fixture);
    store_all(fixture);
    damage(fixture, STREAM_LENGTH + 1);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), ERROR_NOT_FOUND);
    assert_false(is_sealed(fixture->layer));
}

static void other_stream_is_invalid_and_nothing_is_removed(void **state)
{
    struct fixture *fixture = *state;
    uint32_t damaged;
    struct layer_seal seal = seal_of(fixture);
    digest_of("another", 7, &seal.stream);
    store_all(fixture);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), ERROR_INVALID);
    assert_int_equal(damaged, 0);
    assert_true(layer_cache_generation(fixture->layer, 0) != 0);
    assert_false(is_sealed(fixture->layer));
}

static void sealing_can_be_cancelled(void **state)
{
    struct fixture *fixture = *state;
    uint32_t damaged;
    const struct layer_seal seal = seal_of(fixture);
    store_all(fixture);
    atomic_store(&fixture->cancel, true);
    assert_int_equal(try_to_seal(fixture, &seal, &damaged), ERROR_CANCELLED);
    assert_false(is_sealed(fixture->layer));
}

/* A server may have begun to fetch a chunk before another one had stored it. */
static void late_store_does_not_break_it(void **state)
{
    struct fixture *fixture = *state;
    store_all(fixture);
    seal_layer(fixture);
    assert_int_equal(store(fixture, fixture->layer, 2), -EBUSY);
    assert_true(is_sealed(fixture->layer));
}

static void count_damage(void *context, const char *what)
{
    unsigned *count = context;
    assert_non_null(strstr(what, "sealed"));
    ++*count;
}

/* A disk that changes bytes changes no time, so the seal is made of the bytes that were changed. */
static void verifying_finds_damage_that_came_later(void **state)
{
    struct fixture *fixture = *state;
    struct cache_verified verified = { 0 };
    const struct layer_shape shape = shape_of(fixture);
    const struct digest key = key_of_layer(), honest = fixture->chunks[7];
    unsigned count = 0;
    store_all(fixture);
    damage(fixture, 7 * CHUNK_SIZE);
    memcpy(fixture->stream + 7 * CHUNK_SIZE, "damage", 6);
    digest_of(fixture->stream + 7 * CHUNK_SIZE, CHUNK_SIZE, &fixture->chunks[7]);
    digest_of(fixture->stream, STREAM_LENGTH, &fixture->whole);
    seal_layer(fixture);
    assert_true(is_sealed(fixture->layer));
    fixture->chunks[7] = honest;
    assert_int_equal(cache_verify_layer(fixture->cache, &key, &shape, fixture->chunks, count_damage,
                                        &count, &verified, NULL),
                     0);
    assert_int_equal(count, 1);
    assert_int_equal(verified.damaged, 1);
    assert_false(is_sealed(fixture->layer));
    assert_int_equal(layer_cache_generation(fixture->layer, 7), 0);
}

/* ---- files that a kernel has ---- */

static int lend(const struct fixture *fixture)
{
    int descriptor = -1;
    struct stat status;
    assert_int_equal(layer_cache_open_sealed(fixture->layer, &descriptor, NULL), 0);
    assert_int_equal(fcntl(descriptor, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(fstat(descriptor, &status), 0);
    assert_int_equal(status.st_size % 512, 0);
    assert_true((uint64_t)status.st_size >= STREAM_LENGTH);
    expect_stream(fixture, descriptor);
    return descriptor;
}

/* As if no chunk had been used for an hour. */
static void let_age(const struct fixture *fixture)
{
    char *path = path_of(fixture, "chunks");
    int file = open(path, O_RDWR);
    uint32_t long_ago = (uint32_t)time(NULL) - 3600;
    for (uint32_t i = 0; i < CHUNKS; i++)
        assert_int_equal(pwrite(file, &long_ago, 4, (off_t)(64 + 8 * CHUNKS + i * 4)), 4);
    close(file);
    free(path);
}

/* Stores another layer where there is no room for both. */
static void squeeze(const struct fixture *fixture, struct cache *cache)
{
    struct layer_cache *layer = NULL;
    struct digest key;
    const struct layer_shape shape = shape_of(fixture);
    let_age(fixture);
    cache_set_limits(cache, &(struct cache_limits){ .size = STREAM_LENGTH * 5 / 4 });
    digest_of("another layer", 13, &key);
    assert_int_equal(layer_cache_open(cache, &key, &shape, &layer, NULL), 0);
    for (uint32_t i = 0; i < CHUNKS; i++)
        store(fixture, layer, i);
    layer_cache_close(layer);
}

static unsigned chunks_of(struct layer_cache *layer)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < CHUNKS; i++)
        count += layer_cache_generation(layer, i) != 0;
    return count;
}

static void nothing_of_it_goes_while_it_is_lent(void **state)
{
    struct fixture *fixture = *state;
    struct cache *other;
    assert_int_equal(cache_open(&other, fixture->directory, NULL), 0);
    store_all(fixture);
    seal_layer(fixture);
    int descriptor = lend(fixture);
    squeeze(fixture, other);
    prune_all(other);
    assert_int_equal(chunks_of(fixture->layer), CHUNKS);
    assert_true(is_sealed(fixture->layer));
    expect_stream(fixture, descriptor);
    close(descriptor);
    cache_free(other);
}

/* The kernel may have the file for longer than the server that gave it lives. */
static void what_was_lent_goes_as_a_whole(void **state)
{
    struct fixture *fixture = *state;
    struct stat status;
    store_all(fixture);
    seal_layer(fixture);
    int descriptor = lend(fixture);
    layer_cache_close(fixture->layer);

    struct layer_cache *layer = open_layer(fixture, fixture->cache);
    squeeze(fixture, fixture->cache);
    assert_int_equal(chunks_of(layer), CHUNKS); /* in use, through whatever door */
    layer_cache_close(layer);

    prune_all(fixture->cache);
    char *data = path_of(fixture, "data");
    assert_int_equal(stat(data, &status), -1);
    expect_stream(fixture, descriptor);
    close(descriptor);
    free(data);
    fixture->layer = open_layer(fixture, fixture->cache);
}

/* Without a kernel it is a layer like others. */
static void what_was_not_lent_is_evicted_by_chunks(void **state)
{
    struct fixture *fixture = *state;
    store_all(fixture);
    seal_layer(fixture);
    squeeze(fixture, fixture->cache);
    assert_true(chunks_of(fixture->layer) < CHUNKS);
    assert_false(is_sealed(fixture->layer));
}

static void dropped_layer_stores_nothing_more(void **state)
{
    struct fixture *fixture = *state;
    store_all(fixture);
    layer_cache_drop(fixture->layer);
    assert_int_equal(store(fixture, fixture->layer, 0), -ESTALE);
    layer_cache_close(fixture->layer);
    fixture->layer = open_layer(fixture, fixture->cache);
    assert_int_equal(chunks_of(fixture->layer), 0);
}

/* ---- refusals ---- */

static void refusal_outlives_eviction(void **state)
{
    struct fixture *fixture = *state;
    struct digest index;
    digest_of("index", 5, &index);
    assert_null(cache_refusal(fixture->cache, &index));
    assert_int_equal(cache_refuse(fixture->cache, &index, "it lies", NULL), 0);
    prune_all(fixture->cache);
    char *reason = cache_refusal(fixture->cache, &index);
    assert_string_equal(reason, "it lies");
    free(reason);
    cache_end_refusal(fixture->cache, &index);
    assert_null(cache_refusal(fixture->cache, &index));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(holds_for_other_servers_and_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(needs_every_chunk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_when_the_file_changes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ends_with_a_chunk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_found_and_only_that_chunk_goes, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(bytes_behind_the_stream_are_zeros, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_stream_is_invalid_and_nothing_is_removed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(sealing_can_be_cancelled, set_up, tear_down),
        cmocka_unit_test_setup_teardown(late_store_does_not_break_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(verifying_finds_damage_that_came_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_of_it_goes_while_it_is_lent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_lent_goes_as_a_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_not_lent_is_evicted_by_chunks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dropped_layer_stores_nothing_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refusal_outlives_eviction, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
