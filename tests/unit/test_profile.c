/* Profiles: what is written is read back, and what no writer writes is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "index/profile.h"

static const struct profile_layer layers[] = {
    { .table_digest = { { 1 } }, .chunk_count = 100 },
    { .table_digest = { { 2 } }, .chunk_count = 5 },
};

static struct profile_writer *new_writer(void)
{
    struct profile_writer *writer;
    assert_int_equal(profile_writer_new(&writer, layers, 2, NULL), 0);
    return writer;
}

static void add(struct profile_writer *writer, uint32_t layer, uint32_t chunk, uint64_t when,
                const char *path)
{
    assert_int_equal(profile_writer_add(writer, layer, chunk, when, path, NULL), 0);
}

static void encode_example(struct buffer *ret)
{
    struct profile_writer *writer = new_writer();
    add(writer, 0, 40, 3, "bin/sh");
    add(writer, 0, 41, 4, "bin/sh");
    add(writer, 1, 4, 9, NULL);
    add(writer, 0, 40, 10, "bin/sh"); /* again */
    add(writer, 0, 0, 8, "lib/libc.so");
    add(writer, 0, 42, 700000, "bin/sh");
    assert_int_equal(profile_writer_encode(writer, ret, NULL), 0);
    profile_writer_free(writer);
}

static void check_entry(const struct profile *profile, size_t i, struct profile_entry expected)
{
    assert_memory_equal(&profile->entries[i], &expected, sizeof expected);
}

static void touches_are_read_back_in_their_order(void **state)
{
    (void)state;
    cleanup_buffer struct buffer bytes = { 0 };
    struct profile profile;
    encode_example(&bytes);
    assert_int_equal(profile_decode(&profile, bytes.data, bytes.length, layers, 2, NULL), 0);
    assert_int_equal(profile.entry_count, 4);
    assert_int_equal(profile.chunk_count, 5);
    check_entry(&profile, 0, (struct profile_entry){ 0, 40, 2, 3, 0 });
    check_entry(&profile, 1, (struct profile_entry){ 1, 4, 1, 9, PROFILE_NO_PATH });
    check_entry(&profile, 2, (struct profile_entry){ 0, 0, 1, 9, 1 }); /* time never goes back */
    check_entry(&profile, 3, (struct profile_entry){ 0, 42, 1, 700000, 0 });
    assert_int_equal(profile.path_count, 2);
    assert_string_equal(profile.paths[0], "bin/sh");
    assert_string_equal(profile.paths[1], "lib/libc.so");
    profile_free(&profile);
}

static void the_first_of_two_profiles_has_the_order(void **state)
{
    (void)state;
    cleanup_buffer struct buffer first = { 0 }, both = { 0 };
    struct profile profile;
    struct profile_writer *writer = new_writer();
    add(writer, 1, 0, 5, "first");
    add(writer, 0, 41, 50, "first");
    encode_example(&first);
    assert_int_equal(profile_decode(&profile, first.data, first.length, layers, 2, NULL), 0);
    assert_int_equal(profile_writer_add_all(writer, &profile, NULL), 0);
    profile_free(&profile);
    assert_int_equal(profile_writer_encode(writer, &both, NULL), 0);
    profile_writer_free(writer);
    assert_int_equal(profile_decode(&profile, both.data, both.length, layers, 2, NULL), 0);
    assert_int_equal(profile.chunk_count, 6);
    check_entry(&profile, 0, (struct profile_entry){ 1, 0, 1, 5, 0 });
    check_entry(&profile, 1, (struct profile_entry){ 0, 41, 1, 50, 0 });
    check_entry(&profile, 2, (struct profile_entry){ 0, 40, 1, 50, 1 });
    assert_string_equal(profile.paths[1], "bin/sh");
    profile_free(&profile);
}

static enum error_kind refusal(const struct buffer *bytes, const struct profile_layer *of,
                               size_t count)
{
    struct profile profile;
    cleanup_error struct error *error = NULL;
    assert_int_equal(profile_decode(&profile, bytes->data, bytes->length, of, count, &error), -1);
    return error_kind_of(error);
}

static void a_profile_of_other_layers_is_refused(void **state)
{
    (void)state;
    cleanup_buffer struct buffer bytes = { 0 };
    struct profile_layer other[2] = { layers[0], layers[1] };
    encode_example(&bytes);
    other[1].table_digest.bytes[31] = 1;
    assert_int_equal(refusal(&bytes, other, 2), ERROR_UNSUPPORTED);
    assert_int_equal(refusal(&bytes, layers, 1), ERROR_UNSUPPORTED);
    bytes.data[8] = 2; /* the version */
    assert_int_equal(refusal(&bytes, layers, 2), ERROR_UNSUPPORTED);
}

static void every_cut_is_refused(void **state)
{
    (void)state;
    cleanup_buffer struct buffer bytes = { 0 };
    encode_example(&bytes);
    for (size_t length = 0; length < bytes.length; length++) {
        struct profile profile;
        assert_int_equal(profile_decode(&profile, bytes.data, length, layers, 2, NULL), -1);
    }
    buffer_append_u8(&bytes, 0);
    assert_int_equal(refusal(&bytes, layers, 2), ERROR_INVALID);
}

#define HEAD_LENGTH (8u + 4 + 4 + 2 * 32)

static void entries_that_cannot_be_are_refused(void **state)
{
    (void)state;
    /* Behind the head: the number of entries, then for each layer, first (2n forwards, 2n - 1
     * backwards), count, time, path. */
    static const struct {
        uint8_t bytes[24];
        size_t length;
    } cases[] = {
        { { 1, 2, 0, 1, 0, 0 }, 6 },                 /* no such layer */
        { { 1, 1, 0, 0, 0, 0 }, 6 },                 /* no chunk */
        { { 1, 1, 0, 6, 0, 0 }, 6 },                 /* more chunks than there are */
        { { 1, 1, 10, 1, 0, 0 }, 6 },                /* the sixth of five */
        { { 1, 1, 1, 1, 0, 0 }, 6 },                 /* one before the first */
        { { 2, 1, 0, 2, 0, 0, 1, 1, 1, 0, 0 }, 11 }, /* a chunk twice */
        { { 2, 1, 0, 2, 0, 0, 1, 0, 1, 0, 0 }, 11 }, /* two entries that are one */
        { { 1, 1, 0, 1, 0, 2, 1, 'a' }, 8 },         /* the second path before the first */
        { { 1, 1, 0, 1, 0, 1, 0 }, 7 },              /* an empty path */
        { { 1, 1, 0, 1, 0, 1, 1, 0 }, 8 },           /* a path with NUL */
        { { 2, 1, 0, 1, 0, 1, 1, 'a', 1, 2, 1, 0, 2, 1, 'a' }, 15 }, /* a path twice */
        { { 0xff, 0xff, 0xff, 0xff, 0x0f }, 5 },                     /* more entries than bytes */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cleanup_buffer struct buffer bytes = { 0 };
        encode_example(&bytes);
        bytes.length = HEAD_LENGTH;
        buffer_append(&bytes, cases[i].bytes, cases[i].length);
        assert_int_equal(refusal(&bytes, layers, 2), ERROR_INVALID);
    }
}

static void the_writer_keeps_within_the_bound(void **state)
{
    (void)state;
    static char path[5000];
    cleanup_buffer struct buffer bytes = { 0 };
    struct profile_layer many = { .chunk_count = 3000 };
    struct profile_writer *writer;
    struct profile profile;
    assert_int_equal(profile_writer_new(&writer, &many, 1, NULL), 0);
    assert_int_equal(profile_writer_add(writer, 0, 3000, 0, NULL, NULL), -1);
    assert_int_equal(profile_writer_add(writer, 1, 0, 0, NULL, NULL), -1);
    memset(path, 'x', 4000);
    for (uint32_t i = 0; i < many.chunk_count; i++) {
        path[0] = (char)('a' + i % 26);
        path[1] = (char)('a' + i / 26 % 26);
        path[2] = (char)('a' + i / 26 / 26);
        add(writer, 0, i, i, path);
    }
    assert_int_equal(profile_writer_encode(writer, &bytes, NULL), 0);
    profile_writer_free(writer);
    assert_true(bytes.length > PROFILE_LENGTH_MAX / 2 && bytes.length <= PROFILE_LENGTH_MAX);
    assert_int_equal(profile_decode(&profile, bytes.data, bytes.length, &many, 1, NULL), 0);
    assert_true(profile.chunk_count > 1000);
    profile_free(&profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(touches_are_read_back_in_their_order),
        cmocka_unit_test(the_first_of_two_profiles_has_the_order),
        cmocka_unit_test(a_profile_of_other_layers_is_refused),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(entries_that_cannot_be_are_refused),
        cmocka_unit_test(the_writer_keeps_within_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
