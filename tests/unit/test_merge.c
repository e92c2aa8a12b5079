/* Merging: what an unpacker would have on disk after the same layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/tree_maker.h"

typedef int merge_function(const struct merge_layer *layers, size_t count, struct buffer *ret_erofs,
                           struct error **error);

/* Merges `count` layers given as text; NULL: refused, with *ret_error set. */
static char *merge_by(merge_function *function, const char *const *layers, size_t count,
                      struct error **ret_error)
{
    struct chain chain = { .count = 0 };
    struct buffer bytes = { 0 }, text = { 0 };
    struct erofs_image image;
    for (size_t i = 0; i < count; i++)
        chain_add(&chain, layer_of(layers[i]));
    if (function(chain.layers, chain.count, &bytes, ret_error) == 0) {
        struct error *error = NULL;
        if (erofs_image_open(&image, bytes.data, bytes.length, &error) < 0 ||
            erofs_image_validate(&image, chain.lengths, (uint32_t)chain.count, &error) < 0)
            fail_msg("not valid: %s", error_message(error));
        list_tree(&text, &image);
        if (buffer_append_u8(&text, 0) < 0) abort();
    }
    buffer_free(&bytes);
    chain_free(&chain);
    return (char *)text.data;
}

static char *merge(const char *const *layers, size_t count, struct error **ret_error)
{
    return merge_by(merge_layers, layers, count, ret_error);
}

#define LAYERS(...)                       \
    (const char *const[]){ __VA_ARGS__ }, \
        sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *)

static void expect(const char *const *layers, size_t count, const char *tree)
{
    struct error *error = NULL;
    char *text = merge(layers, count, &error);
    if (!text) fail_msg("refused: %s", error_message(error));
    assert_string_equal(text, tree);
    free(text);
}

static void refuse(const char *const *layers, size_t count, const char *words)
{
    struct error *error = NULL;
    char *text = merge(layers, count, &error);
    assert_null(text);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    if (!strstr(error_message(error), words))
        fail_msg("\"%s\" does not say \"%s\"", error_message(error), words);
    error_free(error);
}

static void nothing(void **state)
{
    (void)state;
    expect(NULL, 0, "d . 755\n");
    expect(LAYERS(""), "d . 755\n");
}

static void one_layer(void **state)
{
    (void)state;
    expect(LAYERS("d . 700\nd b 711\nf b/y 600\nf b/x 1\nf a 0\nl c b/x\np d"), "d . 700\n"
                                                                                "f a\n"
                                                                                "d b 711\n"
                                                                                "f b/x 1@1:4\n"
                                                                                "f b/y 600@1:3\n"
                                                                                "l c b/x\n"
                                                                                "p d\n");
}

static void implied_parents(void **state)
{
    (void)state;
    expect(LAYERS("f a/b/c 1"), "d . 755\nd a 755\nd a/b 755\nf a/b/c 1@1:1\n");
    /* Named later, they get their attributes and keep what is in them. */
    expect(LAYERS("f a/b 1\nd a 700"), "d . 755\nd a 700\nf a/b 1@1:1\n");
    expect(LAYERS("w a/b"), "d . 755\nd a 755\n");
    expect(LAYERS("o a/b"), "d . 755\nd a 755\nd a/b 755\n");
}

static void names_in_order_of_bytes(void **state)
{
    (void)state;
    expect(LAYERS("f !a 0\nf - 0\nf .a 0\nf ... 0\nf A 0\nf a 0\nf aaaaaaaaa 0\nf aaaaaaaa 0\n"
                  "f aaaaaaaa! 0\nf \xc3\xa9 0"),
           "d . 755\nf !a\nf -\nf ...\nf .a\nf A\nf a\nf aaaaaaaa\nf aaaaaaaa!\nf aaaaaaaaa\n"
           "f \xc3\xa9\n");
}

static void later_entries_replace(void **state)
{
    (void)state;
    expect(LAYERS("f a 1\nf a 2"), "d . 755\nf a 2@1:2\n");
    expect(LAYERS("d a 755\nf a/b 1", "f a 2"), "d . 755\nf a 2@2:1\n");
    expect(LAYERS("f a 1", "d a 700\nf a/b 1"), "d . 755\nd a 700\nf a/b 1@2:2\n");
    expect(LAYERS("d a 755\nf a/b 1\nf a/c 1", "d a 700\nf a/c 2"),
           "d . 755\nd a 700\nf a/b 1@1:2\nf a/c 2@2:2\n");
    expect(LAYERS("d a 755\nf a/b/c 1", "l a elsewhere"), "d . 755\nl a elsewhere\n");
    /* An unpacker makes a directory of a link to one, when the layer says directory. */
    expect(LAYERS("d real 755\nf real/x 1\nl a real", "d a 700"),
           "d . 755\nd a 700\nd real 755\nf real/x 1@1:2\n");
}

static void whiteouts_hide_lower_layers(void **state)
{
    (void)state;
    expect(LAYERS("f a 1\nf b 1", "w a\nw missing\nw c/missing"), "d . 755\nf b 1@1:2\nd c 755\n");
    expect(LAYERS("f a/b/c 1\nf a/d 1", "w a"), "d . 755\n");
    /* Wherever they stand, they do not touch their own layer. */
    expect(LAYERS("f a 1", "w a\nf a 2"), "d . 755\nf a 2@2:2\n");
    expect(LAYERS("f a 1", "f a 2\nw a"), "d . 755\nf a 2@2:1\n");
    expect(LAYERS("d a 700\nf a/old 1", "w a\nf a/new 1"), "d . 755\nd a 755\nf a/new 1@2:2\n");
    expect(LAYERS("d a 700\nf a/old 1", "f a/new 1\nw a"), "d . 755\nd a 755\nf a/new 1@2:1\n");
    expect(LAYERS("d a 700\nf a/old 1", "d a 711\nf a/new 1\nw a"),
           "d . 755\nd a 711\nf a/new 1@2:2\n");
    expect(LAYERS("f a/b/old 1\nf a/c/old 1\nd a/d 700", "f a/b/new 1\nw a\nw a\nw a/b"),
           "d . 755\nd a 755\nd a/b 755\nf a/b/new 1@2:1\n");
    /* ... and nothing of the layers above. */
    expect(LAYERS("f a 1", "w a", "f a 3"), "d . 755\nf a 3@3:1\n");
    /* Below a file there is nothing to hide. */
    expect(LAYERS("f a 1\nw a/x\nw a/x/y"), "d . 755\nf a 1@1:1\n");
    expect(LAYERS("d a 755\nf a/x 1", "f a 1\nw a/x\no a"), "d . 755\nf a 1@2:1\n");
    expect(LAYERS("f a 1\nl s a\no s\nw s/x"), "d . 755\nf a 1@1:1\nl s a\n");
}

static void opaque_directories(void **state)
{
    (void)state;
    expect(LAYERS("d a 700\nf a/b 1\nd a/c 700\nf a/c/d 1", "o a"), "d . 755\nd a 700\n");
    expect(LAYERS("d a 700\nf a/b 1\nd a/c 700\nf a/c/d 1", "f a/c/new 1\nf a/x 1\no a"),
           "d . 755\nd a 700\nd a/c 755\nf a/c/new 1@2:1\nf a/x 1@2:2\n");
    expect(LAYERS("d a 700\nf a/b 1", "o a\nf a/c 1"), "d . 755\nd a 700\nf a/c 1@2:2\n");
    expect(LAYERS("d . 700\nf a 1\nd b 700\nf b/c 1", "f new 1\no ."), "d . 700\nf new 1@2:1\n");
    expect(LAYERS("d a 700\nf a/b 1", "o a\nw a"), "d . 755\n");
    expect(LAYERS("d a 700\nf a/b 1", "d a 711\no a\nw a"), "d . 755\nd a 711\n");
    /* One marker within another's reach: a lower directory goes with what was in it. */
    expect(LAYERS("d a/b/c 700", "o a/b\no a"), "d . 755\nd a 755\n");
    expect(LAYERS("d a/b/c 700", "o a/b\nw a"), "d . 755\n");
    expect(LAYERS("d a/b/c 700", "o a/b\nf a/b/x 1\no a"),
           "d . 755\nd a 755\nd a/b 755\nf a/b/x 1@2:2\n");
    expect(LAYERS("d a 700\nf a/b 1\nl link a", "o link"), "d . 755\nd a 700\nl link a\n");
}

static void hard_links(void **state)
{
    (void)state;
    expect(LAYERS("f a 1\nh b a\nh c b"), "d . 755\nf a 1@1:1 x3\nf b 1@1:1 x3\nf c 1@1:1 x3\n");
    /* Into lower layers; and the file lives on when its first name is gone or replaced. */
    expect(LAYERS("f a 1", "h b a"), "d . 755\nf a 1@1:1 x2\nf b 1@1:1 x2\n");
    expect(LAYERS("f a 1", "h b a\nf a 2"), "d . 755\nf a 2@2:2\nf b 1@1:1\n");
    expect(LAYERS("f a 1", "h b a\nw a"), "d . 755\nf b 1@1:1\n");
    expect(LAYERS("f a 1\nh b a", "w a"), "d . 755\nf b 1@1:1\n");
    expect(LAYERS("f a 1\nh b a", "f a 2"), "d . 755\nf a 2@2:1\nf b 1@1:1\n");
    /* To what stands there at that moment. */
    expect(LAYERS("f a 1\nh b a\nf a 2\nh c a"),
           "d . 755\nf a 2@1:3 x2\nf b 1@1:1\nf c 2@1:3 x2\n");
    /* To a link itself; through links to directories; to other types. */
    expect(LAYERS("l a nowhere\nh b a"), "d . 755\nl a nowhere x2\nl b nowhere x2\n");
    expect(LAYERS("d d 755\nf d/a 1\nl s d\nh b s/a"),
           "d . 755\nf b 1@1:2 x2\nd d 755\nf d/a 1@1:2 x2\nl s d\n");
    expect(LAYERS("p a\nh b a"), "d . 755\np a x2\np b x2\n");
    /* Replacing; and a link to itself by another way. */
    expect(LAYERS("d b 755\nf b/x 1\nf a 1\nh b a"), "d . 755\nf a 1@1:3 x2\nf b 1@1:3 x2\n");
    expect(LAYERS("d d 755\nf d/a 1\nl s d\nh s/a d/a"), "d . 755\nd d 755\nf d/a 1@1:2\nl s d\n");
    expect(LAYERS("f a 1\nh a a"), "d . 755\nf a 1@1:1\n");
    expect(LAYERS("f a 1\nh b a\nh b a"), "d . 755\nf a 1@1:1 x2\nf b 1@1:1 x2\n");
}

static void bad_hard_links(void **state)
{
    (void)state;
    refuse(LAYERS("h b missing"), "\"missing\"");
    refuse(LAYERS("f a 1", "f c 1\nh b a/x"), "layer 2: entry \"b\"");
    refuse(LAYERS("h a a"), "\"a\"");
    refuse(LAYERS("f a 1", "w a\nh a a"), "missing");
    refuse(LAYERS("d a 755\nh a a"), "directory");
    refuse(LAYERS("d a 755\nh b a"), "directory");
    refuse(LAYERS("f a 1", "w a\nh b a"), "missing");
    refuse(LAYERS("h a b\nf b 1"), "missing");
    refuse(LAYERS("d a 755\nf a/b 1\nh a a/b"), "missing");
}

static void links_in_paths(void **state)
{
    (void)state;
    expect(LAYERS("d usr/lib 755\nl lib usr/lib\nf lib/x 1"),
           "d . 755\nl lib usr/lib\nd usr 755\nd usr/lib 755\nf usr/lib/x 1@1:3\n");
    expect(LAYERS("d usr/lib 755\nl lib usr/lib", "f lib/x 1\nw lib/y"),
           "d . 755\nl lib usr/lib\nd usr 755\nd usr/lib 755\nf usr/lib/x 1@2:1\n");
    /* Absolute ones and ".." stay inside. */
    expect(LAYERS("l a /b\nd b 755\nf a/x 1"), "d . 755\nl a /b\nd b 755\nf b/x 1@1:3\n");
    expect(LAYERS("l d/a ../../../../b\nf d/a/x 1"),
           "d . 755\nd b 755\nf b/x 1@1:2\nd d 755\nl d/a ../../../../b\n");
    /* One that leads nowhere: the directories are made there. */
    expect(LAYERS("l a not/yet\nf a/x 1"),
           "d . 755\nl a not/yet\nd not 755\nd not/yet 755\nf not/yet/x 1@1:2\n");
    expect(LAYERS("l a gone/../yet\nf a/x 1"),
           "d . 755\nl a gone/../yet\nd yet 755\nf yet/x 1@1:2\n");
    /* A chain of them, and a link that replaces a directory on the way. */
    expect(LAYERS("l a b/c\nl b d\nd d/c 755\nf a/x 1"),
           "d . 755\nl a b/c\nl b d\nd d 755\nd d/c 755\nf d/c/x 1@1:4\n");
    expect(LAYERS("d a 755\nf a/x 1\nd b 755\nl a b\nf a/y 1"),
           "d . 755\nl a b\nd b 755\nf b/y 1@1:5\n");
    refuse(LAYERS("l a b\nl b a\nf a/x 1"), "too many symbolic links");
    refuse(LAYERS("l a a/a\nf a/x 1"), "too many symbolic links");
    refuse(LAYERS("f a 1", "f b 1\nf a/x/y 1"), "layer 2: entry \"a/x/y\"");
}

static void data_behind_the_layer(void **state)
{
    (void)state;
    refuse(LAYERS("f a 999489"), "behind the end");
    char entry[100];
    snprintf(entry, sizeof entry, "f a %u", LAYER_LENGTH - 512);
    expect(LAYERS(entry), "d . 755\nf a 999488@1:1\n");
}

static void too_many_layers(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new();
    struct merge_layer *layers = calloc(513, sizeof *layers);
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    for (size_t i = 0; i < 513; i++)
        layers[i].entries = table;
    assert_int_equal(merge_layers(layers, 513, &bytes, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    assert_int_equal(merge_layers(layers, 512, &bytes, NULL), 0);

    /* The device of sparse files comes on top. */
    static const struct entry_segment segment = { 1, 1 };
    struct erofs_image image;
    uint64_t lengths[512] = { 0 };
    layer_add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                      .path = "sparse",
                                      .size = 3,
                                      .sparse = true,
                                      .segments = &segment,
                                      .segment_count = 1 });
    for (size_t i = 0; i < 512; i++)
        layers[i].stream_length = lengths[i] = 512;
    bytes.length = 0;
    assert_int_equal(merge_layers(layers, 512, &bytes, NULL), 0);
    assert_int_equal(erofs_image_open(&image, bytes.data, bytes.length, NULL), 0);
    assert_int_equal(erofs_image_validate(&image, lengths, 512, NULL), 0);
    assert_int_equal(image.sparse_device, 513);
    error_free(error);
    buffer_free(&bytes);
    free(layers);
    entry_table_free(table);
}

static void deterministic(void **state)
{
    (void)state;
    struct chain chain = { .count = 0 };
    struct buffer first = { 0 }, second = { 0 };
    chain_add(&chain, layer_of("d a 755\nf a/x 5\nh y a/x\nl z a"));
    chain_add(&chain, layer_of("w a/x\nf z/new 3\nd . 700"));
    assert_int_equal(merge_layers(chain.layers, chain.count, &first, NULL), 0);
    assert_int_equal(merge_layers(chain.layers, chain.count, &second, NULL), 0);
    assert_int_equal(first.length, second.length);
    assert_memory_equal(first.data, second.data, first.length);
    buffer_free(&first);
    buffer_free(&second);
    chain_free(&chain);
}

/* A short path that implies two thousand directories, links that make each walk long: costs stay
 * bounded. */
static void costly_paths(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new();
    char path[4096];
    for (size_t i = 0; i < sizeof path; i++)
        path[i] = i % 2 ? '/' : 'a';
    path[4095] = 0;
    layer_add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = path });
    char target[4096] = { 0 };
    for (size_t i = 0; i + 2 < sizeof target; i += 2)
        memcpy(target + i, "./", 2);
    layer_add(table, &(struct entry){ .type = ENTRY_SYMLINK, .path = "s0", .target = target });
    struct chain chain = { .count = 0 };
    chain_add(&chain, table);
    struct buffer bytes = { 0 };
    assert_int_equal(merge_layers(chain.layers, chain.count, &bytes, NULL), 0);
    struct erofs_image image;
    assert_int_equal(erofs_image_open(&image, bytes.data, bytes.length, NULL), 0);
    assert_int_equal(erofs_image_validate(&image, chain.lengths, 1, NULL), 0);
    assert_int_equal(image.inode_count, 2048 + 2);

    /* s0/s0/s0/... a thousand components of two thousand steps each, again and again */
    for (size_t i = 0; i < 3 * 250; i++)
        path[i] = "s0/"[i % 3];
    struct error *error = NULL;
    for (size_t i = 0; i < 1200; i++) {
        snprintf(path + 750, 20, "%zu/x", i);
        layer_add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = path });
        snprintf(path + 750, 20, "x");
        layer_add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = path });
        layer_add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = "y" }); /* forgets */
    }
    bytes.length = 0;
    assert_int_equal(merge_layers(chain.layers, chain.count, &bytes, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    error_free(error);
    buffer_free(&bytes);
    chain_free(&chain);
}

static void expect_difference(const char *const *layers, size_t count, const char *tree)
{
    struct error *error = NULL;
    char *text = merge_by(merge_difference, layers, count, &error);
    if (!text) fail_msg("refused: %s", error_message(error));
    assert_string_equal(text, tree);
    free(text);
}

static void difference_of_one(void **state)
{
    (void)state;
    expect_difference(NULL, 0, "d . 755\n");
    expect_difference(LAYERS("d a 700\nf a/b 1\nw c"), "d . 755\nd a 700\nf a/b 1@1:2\n");
}

static void difference_has_what_changes(void **state)
{
    (void)state;
    expect_difference(LAYERS("d a 700\nf a/b 1\nf a/c 1\nd e 755\nf e/f 1", "f a/b 2\nf g 3"),
                      "d . 755\nd a 700\nf a/b 2@2:1\nf g 3@2:2\n");
    expect_difference(LAYERS("d a 700\nf a/b 1", "d a 711"), "d . 755\nd a 711\n");
    expect_difference(LAYERS("f a 1", ""), "d . 755\n");
    expect_difference(LAYERS("f a 1", "f b 1", "f c 1"), "d . 755\nf c 1@3:1\n");
}

static void difference_hides_by_whiteouts(void **state)
{
    (void)state;
    expect_difference(LAYERS("d a 700\nf a/b 1\nf c 1", "w a/b\nw c\nw d"),
                      "d . 755\nd a 700\nc a/b\nc c\n");
    /* One for the directory, none below it. */
    expect_difference(LAYERS("d a 700\nf a/b 1", "w a"), "d . 755\nc a\n");
    expect_difference(LAYERS("d a 700\nf a/b 1\nf a/c 1\nd a/d 700\nf a/d/e 1",
                             "o a\nf a/c 2\nd a/d 711\nf a/d/f 1"),
                      "d . 755\nd a 700\nc a/b\nf a/c 2@2:2\nd a/d 711\nc a/d/e\nf a/d/f 1@2:4\n");
    /* A file where a directory was hides it by itself, and the other way round. */
    expect_difference(LAYERS("d a 700\nf a/b 1\nf c 1", "f a 1\nd c 700\nf c/d 1"),
                      "d . 755\nf a 1@2:1\nd c 700\nf c/d 1@2:3\n");
    /* What was hidden before is not hidden again. */
    expect_difference(LAYERS("f a 1", "w a", "w a"), "d . 755\n");
    /* Removed and made anew, in either order. */
    expect_difference(LAYERS("d a 700\nf a/b 1\nf a/c 1", "w a\nd a 711\nf a/c 2"),
                      "d . 755\nd a 711\nc a/b\nf a/c 2@2:3\n");
    expect_difference(LAYERS("d a 700\nf a/b 1\nf a/c 1", "d a 711\nf a/c 2\nw a"),
                      "d . 755\nd a 711\nc a/b\nf a/c 2@2:2\n");
}

static void difference_sees_lower_layers(void **state)
{
    (void)state;
    /* A parent that is not named keeps its mode, a link leads where it leads below. */
    expect_difference(
        LAYERS("d tmp 1777\nd usr 755\nd usr/lib 700\nl lib usr/lib", "f tmp/a 1\nf lib/b 1"),
        "d . 755\nd tmp 1777\nf tmp/a 1@2:1\nd usr 755\nd usr/lib 700\n"
        "f usr/lib/b 1@2:2\n");
    /* A link to a file of a lower layer has its data; among themselves they stay links. */
    expect_difference(LAYERS("f a 5", "h b a\nh c a\nf d 1"),
                      "d . 755\nf b 5@1:1 x2\nf c 5@1:1 x2\nf d 1@2:3\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing),
        cmocka_unit_test(one_layer),
        cmocka_unit_test(implied_parents),
        cmocka_unit_test(names_in_order_of_bytes),
        cmocka_unit_test(later_entries_replace),
        cmocka_unit_test(whiteouts_hide_lower_layers),
        cmocka_unit_test(opaque_directories),
        cmocka_unit_test(hard_links),
        cmocka_unit_test(bad_hard_links),
        cmocka_unit_test(links_in_paths),
        cmocka_unit_test(data_behind_the_layer),
        cmocka_unit_test(too_many_layers),
        cmocka_unit_test(deterministic),
        cmocka_unit_test(costly_paths),
        cmocka_unit_test(difference_of_one),
        cmocka_unit_test(difference_has_what_changes),
        cmocka_unit_test(difference_hides_by_whiteouts),
        cmocka_unit_test(difference_sees_lower_layers),
    };
    return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
