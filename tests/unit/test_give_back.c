/* What nobody needs is removed from the cache at once, and nothing that a process uses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/unit/cache_outcome.h"
#include "tests/unit/temporary_directory.h"

#define CHUNK_SIZE 65536u

struct fixture {
    char *directory;
    struct cache *cache, *other; /* as another process has it */
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->directory = temporary_directory_make();
    if (cache_open(&fixture->cache, fixture->directory, NULL) < 0 ||
        cache_open(&fixture->other, fixture->directory, NULL) < 0)
        return -1;
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    cache_free(fixture->cache);
    cache_free(fixture->other);
    temporary_directory_remove(fixture->directory);
    free(fixture);
    return 0;
}

static struct digest named(const char *text)
{
    struct digest digest;
    digest_of(text, strlen(text), &digest);
    return digest;
}

/* ---- what is there ---- */

/* Open, and with its one chunk stored. */
static struct layer_cache *open_layer(struct cache *cache, const char *key)
{
    static const uint32_t length = CHUNK_SIZE;
    static const uint8_t data[CHUNK_SIZE] = { 1 };
    const struct layer_shape shape = { .stream_length = CHUNK_SIZE,
                                       .chunk_count = 1,
                                       .lengths = &length };
    struct digest digest = named(key);
    struct layer_cache *layer;
    assert_int_equal(layer_cache_open(cache, &digest, &shape, &layer, NULL), 0);
    assert_int_equal(store_chunk(layer, 0, 0, data, CHUNK_SIZE), CHUNK_SIZE);
    return layer;
}

static struct digest put_blob(struct cache *cache, const char *text)
{
    struct digest digest = named(text);
    assert_int_equal(cache_put_blob(cache, &digest, text, strlen(text), NULL), 0);
    return digest;
}

static bool has_blob(struct cache *cache, const struct digest *digest)
{
    cleanup_buffer struct buffer found = { 0 };
    return cache_get_blob(cache, digest, 100, &found, NULL) == 0;
}

static bool has_name(struct cache *cache, const char *name)
{
    cleanup_buffer struct buffer found = { 0 };
    return cache_recall(cache, name, 100, &found, NULL) == 0;
}

/* ---- the tests ---- */

static void what_nobody_uses_goes(void **state)
{
    struct fixture *fixture = *state;
    struct cache_sizes sizes;
    struct digest stays = named("stays");
    layer_cache_close(open_layer(fixture->other, "layer"));
    layer_cache_close(open_layer(fixture->other, "stays"));
    struct digest digests[] = { named("layer"), put_blob(fixture->cache, "blob"), named("name"),
                                named("nothing") };
    assert_int_equal(cache_remember(fixture->cache, "name", "{}", 2, NULL), 0);
    assert_int_equal(cache_remember(fixture->cache, "other", "{}", 2, NULL), 0);
    uint64_t before = cache_usage(fixture->cache);

    assert_int_equal(cache_give_back(fixture->cache, digests, 4), 0);
    assert_false(cache_has_layer(fixture->cache, &digests[0]));
    assert_false(has_blob(fixture->cache, &digests[1]));
    assert_false(has_name(fixture->cache, "name"));
    assert_true(has_name(fixture->cache, "other"));
    assert_true(cache_has_layer(fixture->cache, &stays));
    cache_measure(fixture->cache, &sizes);
    assert_int_equal(sizes.layer_count, 1);
    assert_true(before - cache_usage(fixture->cache) >= CHUNK_SIZE);
    assert_int_equal(cache_give_back(fixture->cache, digests, 4), 0);
}

/* In any process. */
static void layer_in_use_stays(void **state)
{
    struct fixture *fixture = *state;
    struct layer_cache *layer = open_layer(fixture->other, "layer");
    put_blob(fixture->cache, "blob");
    struct digest layer_key = named("layer"), digests[] = { named("blob"), layer_key };
    assert_int_equal(cache_give_back(fixture->cache, digests, 2), 1);
    assert_true(digest_equal(&digests[0], &layer_key));
    assert_true(cache_has_layer(fixture->cache, &digests[0]));
    assert_int_not_equal(layer_cache_generation(layer, 0), 0);
    layer_cache_close(layer);
    assert_int_equal(cache_give_back(fixture->cache, digests, 1), 0);
    assert_false(cache_has_layer(fixture->cache, &digests[0]));
}

static void what_a_mount_needs_stays(void **state)
{
    struct fixture *fixture = *state;
    struct cache_user *user = NULL;
    struct digest digests[] = { put_blob(fixture->cache, "table"), named("name") };
    const struct cache_use use = {
        .image = "image", .mountpoint = "/mnt", .needed = digests, .needed_count = 2
    };
    assert_int_equal(cache_remember(fixture->cache, "name", "{}", 2, NULL), 0);
    /* A layer that is not open now, of a mount that is. */
    layer_cache_close(open_layer(fixture->cache, "table"));
    assert_int_equal(cache_declare_use(fixture->other, &use, &user, NULL), 0);
    assert_int_equal(cache_give_back(fixture->cache, digests, 2), 2);
    assert_true(has_blob(fixture->cache, &digests[0]));
    assert_true(cache_has_layer(fixture->cache, &digests[0]));
    assert_true(has_name(fixture->cache, "name"));
    cache_end_use(user);
    assert_int_equal(cache_give_back(fixture->cache, digests, 2), 0);
    assert_false(has_name(fixture->cache, "name"));
    assert_false(cache_has_layer(fixture->cache, &digests[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_nobody_uses_goes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layer_in_use_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_mount_needs_stays, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
