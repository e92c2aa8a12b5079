/* Metadata images: nothing but our own layout is accepted, and nothing in them can do harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/tools/image_read.h"
#include "tests/tools/image_rebuild.h"
#include "tests/unit/built_image.h"

/* A tree with some of everything. */
static void build_sample(struct fixture *f)
{
    static const struct entry_xattr xattrs[] = { { "security.capability", "\1\0\2", 3 },
                                                 { "trusted.x", "", 0 },
                                                 { "user.name", "value", 5 } };
    struct entry_table *table = entry_table_new();
    char path[300], target[1000];
    memset(target, 't', sizeof target);
    target[sizeof target - 1] = 0;
    for (int i = 0; i < 60; i++) {
        snprintf(path, sizeof path, "many/%d%0*d", i, i, 0);
        layer_add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                          .path = path,
                                          .size = (uint64_t)i * 100,
                                          .data_offset = 512 });
    }
    layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY,
                                      .path = "d",
                                      .mode = 0755,
                                      .xattrs = xattrs,
                                      .xattr_count = 3 });
    layer_add(table, &(struct entry){ .type = ENTRY_SYMLINK, .path = "d/long", .target = target });
    layer_add(table, &(struct entry){ .type = ENTRY_SYMLINK,
                                      .path = "d/short",
                                      .target = "x",
                                      .xattrs = xattrs,
                                      .xattr_count = 2 });
    layer_add_sparse(table, "d/sparse", 40000, 4096, "0+10 20+5000 16384+1 39999+1");
    layer_add_sparse(table, "d/hole", 5000, 0, "");
    layer_add_sparse(table, "d/end", 4097, 9 * 512, "4096+1");
    layer_add_sparse(table, "d/small", 100, 11 * 512, "1+99");
    layer_add(table, &(struct entry){ .type = ENTRY_CHARACTER_DEVICE, .path = "c" });
    layer_add(table, &(struct entry){ .type = ENTRY_HARDLINK, .path = "d/hard", .target = "c" });
    layer_add(table, &(struct entry){ .type = ENTRY_FIFO, .path = "d/e/f/g/pipe" });
    chain_add(&f->chain, layer_of("f lower 5\nd x 755"));
    chain_add(&f->chain, table);
    build(f);
}

/* Memory of its exact size, so that the address sanitizer sees what is read behind it. */
static uint8_t *exact_copy(const struct buffer *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    memcpy(copy, bytes->data, length);
    return copy;
}

static void reading_damaged_images(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    build_sample(&f);
    uint32_t seed = 42;
    for (int round = 0; round < 3000; round++) {
        uint8_t *copy = exact_copy(&f.bytes, f.bytes.length);
        for (int flips = 0; flips < 1 + round % 20; flips++) {
            seed = seed * 1664525 + 1013904223;
            copy[1152 + (seed >> 8) % (f.bytes.length - 1152)] = (uint8_t)(seed >> 3);
        }
        struct erofs_image image;
        int budget = 20000;
        if (erofs_image_open(&image, copy, f.bytes.length, NULL) == 0) {
            (void)erofs_image_validate(&image, f.chain.lengths, 2, NULL);
            read_tree(&image, image.root_nid, 30, &budget);
        }
        free(copy);
    }
    release(&f);
}

/* What is accepted is what the writer writes, for these layers. */
static void assert_ours(const struct fixture *f, const struct erofs_image *image)
{
    assert_int_equal(image->device_count, f->chain.count);
    for (uint32_t i = 0; i < image->device_count; i++) {
        uint64_t length;
        struct digest tag;
        assert_int_equal(erofs_image_device(image, i + 1, &length, &tag, NULL), 0);
        assert_true(digest_equal(&tag, &f->chain.layers[i].stream_digest));
    }
    expect_rebuilt(image, f->chain.lengths);
}

static void only_our_images_are_accepted(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    build_sample(&f);
    assert_ours(&f, &f.image);
    size_t accepted = 0, refused = 0;
    for (size_t i = 0; i < f.bytes.length; i++) {
        uint8_t flips[] = { 1, (uint8_t)(2u << i % 7), 0xff };
        for (size_t flip = 0; flip < sizeof flips; flip++) {
            uint8_t *copy = exact_copy(&f.bytes, f.bytes.length);
            struct erofs_image image;
            struct error *error = NULL;
            copy[i] ^= flips[flip];
            if (erofs_image_open(&image, copy, f.bytes.length, &error) == 0 &&
                erofs_image_validate(&image, f.chain.lengths, 2, &error) == 0) {
                accepted++;
                assert_ours(&f, &image);
            } else {
                refused++;
                assert_int_equal(error_kind_of(error), ERROR_INVALID);
                error_free(error);
            }
            free(copy);
        }
    }
    /* Owners, times and the like can be anything. */
    assert_true(accepted > 0 && refused > accepted);
    release(&f);
}

/* The bytes of an image whose sparse map is replaced by `count` records. */
static void assert_map_refused(const struct fixture *f, const struct sparse_record *records,
                               size_t count, bool refused)
{
    size_t length = f->image.size + count * SPARSE_MAP_RECORD_BYTES;
    uint8_t *copy = malloc(length);
    struct erofs_image image;
    struct error *error = NULL;
    memcpy(copy, f->bytes.data, f->image.size);
    for (size_t i = 0; i < count; i++)
        sparse_record_write(&records[i], copy + f->image.size + i * SPARSE_MAP_RECORD_BYTES);
    bool good = erofs_image_open(&image, copy, length, &error) == 0 &&
                erofs_image_validate(&image, f->chain.lengths, 1, &error) == 0;
    assert_int_equal(good, !refused);
    error_free(error);
    free(copy);
}

/* Maps that would give the same bytes, or others, and are not the writer's. */
static void other_sparse_maps(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    /* On the device, the first two segments touch; in the file, a chunk of nothing lies between. */
    layer_add_sparse(table, "a", 40000, 4096, "0+4096 8192+10 12000+100");
    layer_add_sparse(table, "b", 5000, 51200, "4999+1");
    build_one(&f, table);
    struct sparse_record records[6], changed[6];
    assert_int_equal(f.image.sparse_map.count, 4);
    for (size_t i = 0; i < 4; i++)
        records[i] = sparse_map_get(&f.image.sparse_map, i);
    assert_int_equal(records[0].device_offset + records[0].length, records[1].device_offset);
    assert_map_refused(&f, records, 4, false);
    assert_map_refused(&f, records, 3, true);
    assert_map_refused(&f, records + 1, 3, true);
    assert_map_refused(&f, records, 0, true);

    /* Two as one across the hole; one as two; one more; another order. */
    memcpy(changed, records, sizeof records);
    changed[1] = (struct sparse_record){ .length = 4106, .stream_offset = 4096 };
    assert_map_refused(&f, changed + 1, 3, true);
    memcpy(changed + 1, records, 4 * sizeof *records);
    changed[0] = changed[1];
    changed[0].length = 100;
    changed[1].device_offset += 100;
    changed[1].stream_offset += 100;
    changed[1].length -= 100;
    assert_map_refused(&f, changed, 5, true);
    memcpy(changed, records, sizeof records);
    changed[4] = records[3];
    changed[4].device_offset++;
    assert_map_refused(&f, changed, 5, true);
    memcpy(changed, records, sizeof records);
    changed[0] = records[1];
    changed[1] = records[0];
    assert_map_refused(&f, changed, 4, true);

    static const struct {
        size_t record;
        struct sparse_record difference;
        bool refused;
    } changes[] = {
        { 3, { .layer = 1 }, true },
        { 3, { .reserved = 1 }, true },
        { 3, { .length = UINT64_MAX }, true },
        { 3, { .length = 1 }, true },
        { 3, { .stream_offset = 1 }, true },
        { 3, { .stream_offset = 512 }, false },
        { 3, { .stream_offset = 1 << 20 }, true },
        { 1, { .stream_offset = 512 }, true },
        { 1, { .length = 1 }, true },
        { 1, { .device_offset = 5000 }, true },
        { 3, { .stream_offset = UINT64_MAX - 51199 - 512 }, true },
        { 2, { .device_offset = 1 }, false },
        { 2, { .device_offset = 30000 }, true },
        { 0, { .device_offset = UINT64_MAX }, true },
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        memcpy(changed, records, sizeof records);
        struct sparse_record *record = &changed[changes[i].record];
        const struct sparse_record *difference = &changes[i].difference;
        record->device_offset += difference->device_offset;
        record->length += difference->length;
        record->stream_offset += difference->stream_offset;
        record->layer += difference->layer;
        record->reserved += difference->reserved;
        assert_map_refused(&f, changed, 4, changes[i].refused);
    }
    release(&f);
}

static void images_cut_short(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    build_sample(&f);
    for (size_t length = 0; length < f.image.size; length += length < 2000 ? 1 : 512) {
        uint8_t *copy = exact_copy(&f.bytes, length);
        struct erofs_image image;
        assert_int_equal(erofs_image_open(&image, copy, length, NULL), -1);
        free(copy);
    }
    release(&f);
}

static void other_layers(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    build_sample(&f);
    uint64_t lengths[3] = { LAYER_LENGTH, LAYER_LENGTH, LAYER_LENGTH };
    assert_int_equal(erofs_image_validate(&f.image, lengths, 1, NULL), -1);
    assert_int_equal(erofs_image_validate(&f.image, lengths, 3, NULL), -1);
    lengths[1] += 512;
    assert_int_equal(erofs_image_validate(&f.image, lengths, 2, NULL), -1);
    lengths[1] -= 1024;
    assert_int_equal(erofs_image_validate(&f.image, lengths, 2, NULL), -1);
    release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reading_damaged_images), cmocka_unit_test(only_our_images_are_accepted),
        cmocka_unit_test(other_sparse_maps),      cmocka_unit_test(images_cut_short),
        cmocka_unit_test(other_layers),
    };
    return cmocka_run_group_tests_name("erofs_validate", tests, NULL, NULL);
}
