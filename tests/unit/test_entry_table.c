/* Entry tables: rules of entries, and an encoding that gives back what went in and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/tree_maker.h"

#define STREAM (1ull << 40)

static struct entry_table *sample(void)
{
    static const struct entry_xattr xattrs[] = { { "security.capability", "\1\0\2", 3 },
                                                 { "user.empty", "", 0 } };
    static const struct entry_segment segments[] = { { 0, 5 }, { 10, 600 }, { 1ull << 60, 1 } };
    static const struct entry entries[] = {
        { .type = ENTRY_DIRECTORY, .path = "", .mode = 0755, .mtime = 1600000000 },
        { .type = ENTRY_OPAQUE, .path = "" },
        { .type = ENTRY_DIRECTORY,
          .path = "usr",
          .mode = 01777,
          .uid = 4294967295,
          .xattrs = xattrs,
          .xattr_count = 2 },
        { .type = ENTRY_REGULAR,
          .path = "usr/bin",
          .size = 5000,
          .data_offset = 1536,
          .mode = 06755,
          .mtime = INT64_MIN,
          .mtime_nsec = 999999999 },
        { .type = ENTRY_REGULAR, .path = "usr/bin/x", .mtime = INT64_MAX },
        { .type = ENTRY_REGULAR, .path = "usr/b", .size = 1, .data_offset = STREAM - 512 },
        { .type = ENTRY_REGULAR, .path = "usr", .size = 512, .data_offset = 0 },
        { .type = ENTRY_REGULAR,
          .path = "var/sparse",
          .size = 1ull << 62,
          .data_offset = 2048,
          .sparse = true,
          .segments = segments,
          .segment_count = 3 },
        { .type = ENTRY_REGULAR,
          .path = "var/sparse2",
          .size = 5000,
          .data_offset = 4096,
          .sparse = true,
          .segments = segments + 1,
          .segment_count = 1 },
        { .type = ENTRY_REGULAR, .path = "var/hole", .size = 1, .sparse = true },
        { .type = ENTRY_SYMLINK, .path = "usr/link", .target = "../..//.", .mode = 0777 },
        { .type = ENTRY_HARDLINK, .path = "usr/hard", .target = "usr/b" },
        { .type = ENTRY_CHARACTER_DEVICE,
          .path = "dev/null",
          .device_major = 1,
          .device_minor = 3 },
        { .type = ENTRY_BLOCK_DEVICE,
          .path = "dev/b",
          .device_major = 4095,
          .device_minor = 1048575,
          .gid = 6 },
        { .type = ENTRY_FIFO, .path = "dev/pipe", .mode = 0600 },
        { .type = ENTRY_WHITEOUT, .path = "etc/gone" },
        { .type = ENTRY_OPAQUE, .path = "etc" },
    };
    struct entry_table *table = entry_table_new();
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        layer_add(table, &entries[i]);
    return table;
}

static void assert_same_entry(const struct entry *left, const struct entry *right)
{
    assert_int_equal(left->type, right->type);
    assert_string_equal(left->path, right->path);
    assert_true((left->target == NULL) == (right->target == NULL));
    if (left->target) assert_string_equal(left->target, right->target);
    assert_int_equal(left->mode, right->mode);
    assert_int_equal(left->uid, right->uid);
    assert_int_equal(left->gid, right->gid);
    assert_int_equal(left->mtime, right->mtime);
    assert_int_equal(left->mtime_nsec, right->mtime_nsec);
    assert_int_equal(left->size, right->size);
    assert_int_equal(left->data_offset, right->data_offset);
    assert_int_equal(left->sparse, right->sparse);
    assert_int_equal(left->segment_count, right->segment_count);
    for (uint32_t i = 0; i < left->segment_count; i++) {
        assert_int_equal(left->segments[i].offset, right->segments[i].offset);
        assert_int_equal(left->segments[i].length, right->segments[i].length);
    }
    assert_int_equal(left->device_major, right->device_major);
    assert_int_equal(left->device_minor, right->device_minor);
    assert_int_equal(left->xattr_count, right->xattr_count);
    for (uint32_t i = 0; i < left->xattr_count; i++) {
        assert_string_equal(left->xattrs[i].name, right->xattrs[i].name);
        assert_int_equal(left->xattrs[i].value_length, right->xattrs[i].value_length);
        assert_memory_equal(left->xattrs[i].value, right->xattrs[i].value,
                            left->xattrs[i].value_length);
    }
}

static void round_trip(void **state)
{
    (void)state;
    struct entry_table *table = sample(), *decoded;
    struct buffer bytes = { 0 }, again = { 0 };
    assert_int_equal(entry_table_encode(table, &bytes, NULL), 0);
    assert_int_equal(entry_table_decode(&decoded, bytes.data, bytes.length, STREAM, NULL), 0);
    assert_int_equal(entry_table_count(decoded), entry_table_count(table));
    for (size_t i = 0; i < entry_table_count(table); i++)
        assert_same_entry(entry_table_get(table, i), entry_table_get(decoded, i));
    assert_int_equal(entry_table_encode(decoded, &again, NULL), 0);
    assert_int_equal(again.length, bytes.length);
    assert_memory_equal(again.data, bytes.data, bytes.length);
    buffer_free(&bytes);
    buffer_free(&again);
    entry_table_free(table);
    entry_table_free(decoded);
}

static void empty_table(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new(), *decoded;
    struct buffer bytes = { 0 };
    assert_int_equal(entry_table_encode(table, &bytes, NULL), 0);
    assert_int_equal(entry_table_decode(&decoded, bytes.data, bytes.length, 0, NULL), 0);
    assert_int_equal(entry_table_count(decoded), 0);
    buffer_free(&bytes);
    entry_table_free(table);
    entry_table_free(decoded);
}

/* Entries keep their address while the table grows. */
static void many_entries(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new();
    char path[64];
    for (int i = 0; i < 5000; i++) {
        snprintf(path, sizeof path, "directory/%d", i * 7919 % 5000);
        layer_add(table,
                  &(struct entry){ .type = ENTRY_REGULAR, .path = path, .uid = (uint32_t)i });
        if (i == 0) *state = (void *)entry_table_get(table, 0);
    }
    assert_ptr_equal(*state, entry_table_get(table, 0));
    assert_string_equal(entry_table_get(table, 4999)->path, "directory/2081");
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(entry_table_get(table, i)->uid, i);
    entry_table_free(table);
}

/* Fields without a meaning for the type do not get into the table. */
static void meaningless_fields(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new();
    layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY,
                                      .path = "d",
                                      .size = 9,
                                      .data_offset = 7,
                                      .device_major = 5,
                                      .target = "t" });
    layer_add(table,
              &(struct entry){
                  .type = ENTRY_HARDLINK, .path = "h", .target = "d", .mode = 0777, .uid = 5 });
    layer_add(table,
              &(struct entry){ .type = ENTRY_SYMLINK, .path = "s", .target = "d", .mode = 0 });
    assert_int_equal(entry_table_get(table, 0)->size, 0);
    assert_int_equal(entry_table_get(table, 0)->data_offset, 0);
    assert_int_equal(entry_table_get(table, 0)->device_major, 0);
    assert_null(entry_table_get(table, 0)->target);
    assert_int_equal(entry_table_get(table, 1)->uid, 0);
    assert_int_equal(entry_table_get(table, 2)->mode, 0777); /* Linux knows no other */
    entry_table_free(table);
}

static void refuse(const struct entry *entry, const char *words)
{
    struct entry_table *table = entry_table_new();
    struct error *error = NULL;
    assert_int_equal(entry_table_append(table, entry, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    if (!strstr(error_message(error), words))
        fail_msg("\"%s\" does not say \"%s\"", error_message(error), words);
    assert_int_equal(entry_table_count(table), 0);
    error_free(error);
    entry_table_free(table);
}

static void rules(void **state)
{
    (void)state;
    static const char *const paths[] = { "/a", "a/", "a//b", "./a", "a/.", "..", "a/../b", "." };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        refuse(&(struct entry){ .type = ENTRY_DIRECTORY, .path = paths[i] }, "path");
        refuse(&(struct entry){ .type = ENTRY_HARDLINK, .path = "x", .target = paths[i] },
               "target");
    }
    refuse(&(struct entry){ .type = ENTRY_REGULAR, .path = "" }, "empty");
    refuse(&(struct entry){ .type = ENTRY_WHITEOUT, .path = "" }, "empty");
    refuse(&(struct entry){ .type = ENTRY_HARDLINK, .path = "a", .target = "" }, "target");
    refuse(&(struct entry){ .type = ENTRY_SYMLINK, .path = "a", .target = "" }, "target");
    refuse(&(struct entry){ .type = ENTRY_SYMLINK, .path = "a" }, "target");
    refuse(&(struct entry){ .type = 0, .path = "a" }, "type");
    refuse(&(struct entry){ .type = ENTRY_OPAQUE + 1, .path = "a" }, "type");
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .mode = 010000 }, "mode");
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .mtime_nsec = 1000000000 }, "nano");
    refuse(&(struct entry){ .type = ENTRY_REGULAR, .path = "a", .size = 1, .data_offset = 5 },
           "512");
    refuse(&(struct entry){ .type = ENTRY_REGULAR, .path = "a", .size = UINT64_MAX }, "size");
    refuse(&(struct entry){ .type = ENTRY_CHARACTER_DEVICE, .path = "a", .device_major = 4096 },
           "device");

    char name[5000];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = name }, "255");
    for (size_t i = 0; i < sizeof name; i++)
        name[i] = i % 2 ? '/' : 'n';
    name[4097] = 0;
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = name }, "4095");

    static const struct entry_xattr unsorted[] = { { "user.b", "", 0 }, { "user.a", "", 0 } };
    static const struct entry_xattr twice[] = { { "user.a", "", 0 }, { "user.a", "", 0 } };
    static const struct entry_xattr overlay[] = { { "trusted.overlay.opaque", "y", 1 } };
    static const struct entry_xattr nameless[] = { { "", "y", 1 } };
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .xattrs = unsorted, .xattr_count = 2 },
           "order");
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .xattrs = twice, .xattr_count = 2 },
           "order");
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .xattrs = overlay, .xattr_count = 1 },
           "overlay");
    refuse(&(struct entry){ .type = ENTRY_FIFO, .path = "a", .xattrs = nameless, .xattr_count = 1 },
           "name");
}

static void rules_of_sparse_files(void **state)
{
    (void)state;
    static const struct {
        struct entry_segment segments[2];
        uint32_t count;
        const char *words;
    } bad[] = {
        { { { 0, 0 } }, 1, "empty" },
        { { { 0, 100 } }, 1, "no hole" },
        { { { 0, 101 } }, 1, "behind the end" },
        { { { 101, 1 } }, 1, "behind the end" },
        { { { UINT64_MAX, 2 } }, 1, "behind the end" },
        { { { 2, UINT64_MAX } }, 1, "behind the end" },
        { { { 10, 10 }, { 20, 10 } }, 2, "touch" },
        { { { 10, 10 }, { 19, 10 } }, 2, "overlap" },
        { { { 10, 10 }, { 5, 1 } }, 2, "overlap" },
        { { { 0 } }, ENTRY_SEGMENTS_MAX + 1, "too many" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(&(struct entry){ .type = ENTRY_REGULAR,
                                .path = "a",
                                .size = 100,
                                .sparse = true,
                                .segments = bad[i].segments,
                                .segment_count = bad[i].count },
               bad[i].words);
    refuse(&(struct entry){ .type = ENTRY_REGULAR, .path = "a", .sparse = true }, "no hole");
}

static void data_behind_the_stream(void **state)
{
    (void)state;
    struct entry_table *table = sample(), *decoded = NULL;
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    assert_int_equal(entry_table_encode(table, &bytes, NULL), 0);
    assert_int_equal(entry_table_decode(&decoded, bytes.data, bytes.length, STREAM - 512, &error),
                     -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    error_free(error);
    buffer_free(&bytes);
    entry_table_free(table);
}

static void other_versions(void **state)
{
    (void)state;
    struct entry_table *table = sample(), *decoded = NULL;
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    assert_int_equal(entry_table_encode(table, &bytes, NULL), 0);
    bytes.data[8]++;
    assert_int_equal(entry_table_decode(&decoded, bytes.data, bytes.length, STREAM, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    error_free(error);
    buffer_free(&bytes);
    entry_table_free(table);
}

/* Whatever is accepted is what the encoder writes, to the byte. */
static void assert_canonical(const struct buffer *bytes)
{
    struct entry_table *table = NULL;
    struct error *error = NULL;
    if (entry_table_decode(&table, bytes->data, bytes->length, STREAM, &error) < 0) {
        error_free(error);
        return;
    }
    struct buffer again = { 0 };
    assert_int_equal(entry_table_encode(table, &again, NULL), 0);
    assert_int_equal(again.length, bytes->length);
    assert_memory_equal(again.data, bytes->data, bytes->length);
    buffer_free(&again);
    entry_table_free(table);
}

static void damage(void **state)
{
    (void)state;
    struct entry_table *table = sample();
    struct buffer bytes = { 0 };
    assert_int_equal(entry_table_encode(table, &bytes, NULL), 0);
    size_t whole = bytes.length;
    for (size_t length = 0; length < whole; length++) {
        /* a copy of its own, so that a read behind the end is seen */
        struct entry_table *decoded = NULL;
        struct error *error = NULL;
        uint8_t *copy = malloc(length ? length : 1);
        memcpy(copy, bytes.data, length);
        assert_int_equal(entry_table_decode(&decoded, copy, length, STREAM, &error), -1);
        error_free(error);
        free(copy);
    }
    for (size_t i = 0; i < whole; i++)
        for (unsigned flip = 1; flip < 256; flip++) {
            bytes.data[i] ^= (uint8_t)flip;
            assert_canonical(&bytes);
            bytes.data[i] ^= (uint8_t)flip;
        }
    if (buffer_append_u8(&bytes, 0) < 0) abort();
    struct entry_table *decoded = NULL;
    assert_int_equal(entry_table_decode(&decoded, bytes.data, bytes.length, STREAM, NULL), -1);
    buffer_free(&bytes);
    entry_table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(empty_table),
        cmocka_unit_test(many_entries),
        cmocka_unit_test(meaningless_fields),
        cmocka_unit_test(rules),
        cmocka_unit_test(rules_of_sparse_files),
        cmocka_unit_test(data_behind_the_stream),
        cmocka_unit_test(other_versions),
        cmocka_unit_test(damage),
    };
    return cmocka_run_group_tests_name("entry_table", tests, NULL, NULL);
}
