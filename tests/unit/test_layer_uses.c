/* Which layers are in use: counted by the name that was asked for, and kept across restarts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "snapshotter/layer_uses.h"
#include "tests/tools/expect.h"
#include "tests/unit/temporary_directory.h"

static const struct digest blob = { .bytes = { 1 } }, other_blob = { .bytes = { 2 } };
static char *directory, *path;
static struct layer_uses *uses;

static void open_file(void)
{
    struct error *error = NULL;
    EXPECT_SUCCESS(layer_uses_open(&uses, path, &error));
}

static int set_up(void **state)
{
    (void)state;
    directory = temporary_directory_make();
    path = format_text("%s/layers.json", directory);
    open_file();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    layer_uses_free(uses);
    free(path);
    temporary_directory_remove(directory);
    return 0;
}

static void start_anew(void)
{
    layer_uses_free(uses);
    open_file();
}

static void add(const char *image, const struct digest *of, uint64_t number, uint32_t layers)
{
    struct error *error = NULL;
    const struct lazy_use use = { .image = number, .layers = layers };
    EXPECT_SUCCESS(layer_uses_add(uses, image, of, &use, &error));
}

/* The number of the image that is not in use any more. */
static uint64_t drop(const char *image, const struct digest *of)
{
    struct error *error = NULL;
    uint64_t unused;
    EXPECT_SUCCESS(layer_uses_drop(uses, image, of, &unused, &error));
    return unused;
}

static void counts(void **state)
{
    (void)state;
    struct lazy_use use;
    assert_false(layer_uses_find(uses, "a", &blob, &use));
    add("a", &blob, 7, 1);
    add("a", &other_blob, 7, 2);
    add("b", &blob, 8, 1);
    /* What is in use stays what it was. */
    add("a", &blob, 9, 3);
    assert_true(layer_uses_find(uses, "a", &blob, &use));
    assert_int_equal(use.image, 7);
    assert_int_equal(use.layers, 1);
    assert_int_equal(drop("a", &blob), 0);
    assert_int_equal(drop("a", &blob), 0);
    assert_false(layer_uses_find(uses, "a", &blob, &use));
    assert_int_equal(drop("a", &other_blob), 7);
    assert_int_equal(drop("b", &blob), 8);
    /* Told once too often. */
    assert_int_equal(drop("b", &blob), 0);
}

static void lasts(void **state)
{
    (void)state;
    struct lazy_use use;
    size_t count;
    add("a", &blob, 7, 1);
    add("a", &blob, 7, 1);
    add("\"b\n", &other_blob, 8, 2);
    start_anew();
    uint64_t *images = layer_uses_images(uses, &count);
    assert_int_equal(count, 2);
    assert_int_equal(images[0] + images[1], 15);
    free(images);
    assert_true(layer_uses_find(uses, "\"b\n", &other_blob, &use));
    assert_int_equal(use.image, 8);
    assert_int_equal(use.layers, 2);
    assert_int_equal(drop("a", &blob), 0);
    start_anew();
    assert_int_equal(drop("a", &blob), 7);
    start_anew();
    assert_false(layer_uses_find(uses, "a", &blob, &use));
}

#define DIGEST "\"sha256:0000000000000000000000000000000000000000000000000000000000000000\""

static void damaged_files(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "{}",
        "{\"layers\": 1}",
        "{\"layers\": [1]}",
        "{\"layers\": [{\"image\": \"a\"}]}",
        "{\"layers\": [{\"image\": \"a\", \"blob\": \"x\", \"number\": 1, \"layers\": 1, "
        "\"uses\": 1}]}",
        "{\"layers\": [{\"image\": \"a\", \"blob\": " DIGEST ", \"number\": 0, \"layers\": 1, "
        "\"uses\": 1}]}",
        "{\"layers\": [{\"image\": \"a\", \"blob\": " DIGEST ", \"number\": 1, \"layers\": 501, "
        "\"uses\": 1}]}",
        "{\"layers\": [{\"image\": \"a\", \"blob\": " DIGEST ", \"number\": 1, \"layers\": 1, "
        "\"uses\": -1}]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct layer_uses *opened = NULL;
        struct error *error = NULL;
        assert_int_equal(file_write_atomic(path, texts[i], strlen(texts[i]), 0600, NULL), 0);
        if (layer_uses_open(&opened, path, &error) == 0) fail_msg("accepted: %s", texts[i]);
        expect_error(error);
        assert_non_null(strstr(error_message(error), "layers.json"));
        error_free(error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lasts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("layer_uses", tests, NULL, NULL);
}
