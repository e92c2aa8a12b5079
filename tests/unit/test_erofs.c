/* Metadata images: what goes in can be read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <sys/sysmacros.h>

#include "index/erofs-internal.h"
#include "tests/unit/built_image.h"

static struct erofs_inode look_up(const struct fixture *fixture, const char *path)
{
    struct erofs_inode inode;
    assert_int_equal(erofs_image_inode(&fixture->image, fixture->image.root_nid, &inode), 0);
    while (*path) {
        size_t length = strcspn(path, "/");
        uint64_t nid;
        assert_int_equal(erofs_image_lookup(&fixture->image, &inode, path, length, &nid), 0);
        assert_int_equal(erofs_image_inode(&fixture->image, nid, &inode), 0);
        path += length + (path[length] == '/');
    }
    return inode;
}

static void inode_fields(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    layer_add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                      .path = "a",
                                      .mode = 06755,
                                      .uid = 4294967294,
                                      .gid = 70000,
                                      .mtime = -5,
                                      .mtime_nsec = 999999999,
                                      .size = 10,
                                      .data_offset = 2048 });
    layer_add(table, &(struct entry){ .type = ENTRY_CHARACTER_DEVICE,
                                      .path = "c",
                                      .mode = 0666,
                                      .device_major = 4095,
                                      .device_minor = 1048575 });
    layer_add(table, &(struct entry){ .type = ENTRY_BLOCK_DEVICE,
                                      .path = "b",
                                      .device_major = 8,
                                      .device_minor = 300 });
    layer_add(table, &(struct entry){ .type = ENTRY_FIFO, .path = "p" });
    layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY, .path = "d/e", .mode = 01777 });
    build_one(&f, table);

    struct erofs_inode a = look_up(&f, "a"), c = look_up(&f, "c"), b = look_up(&f, "b");
    assert_int_equal(a.mode, S_IFREG | 06755);
    assert_int_equal(a.uid, 4294967294);
    assert_int_equal(a.gid, 70000);
    assert_int_equal(a.mtime, -5);
    assert_int_equal(a.mtime_nsec, 999999999);
    assert_int_equal(a.size, 10);
    assert_int_equal(a.link_count, 1);
    assert_int_equal(c.mode, S_IFCHR | 0666);
    assert_int_equal(c.rdev, 0xffffffff);
    assert_int_equal(b.rdev, (300 & 0xff) | 8 << 8 | (300 & ~0xff) << 12);
    assert_int_equal(look_up(&f, "p").mode, S_IFIFO);
    assert_int_equal(look_up(&f, "d").link_count, 3);
    assert_int_equal(look_up(&f, "").link_count, 3);
    assert_int_equal(look_up(&f, "d/e").mode, S_IFDIR | 01777);
    assert_int_equal(f.image.inode_count, 7);

    uint64_t length;
    struct digest tag;
    assert_int_equal(erofs_image_device(&f.image, 1, &length, &tag, NULL), 0);
    assert_int_equal(length, (LAYER_LENGTH + 511) / 512 * 512);
    assert_true(digest_equal(&tag, &f.chain.layers[0].stream_digest));
    assert_int_equal(erofs_image_device(&f.image, 0, &length, &tag, NULL), -1);
    assert_int_equal(erofs_image_device(&f.image, 2, &length, &tag, NULL), -1);
    release(&f);
}

/* Every length of name list and link target around the size of a block. */
static void directories_and_links_of_all_sizes(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    char path[300], target[4096];
    for (int count = 0; count < 60; count++)
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "d%d/%0*d", count, 1 + count * i % 37, i);
            layer_add(table, &(struct entry){ .type = ENTRY_FIFO, .path = path });
        }
    memset(target, 't', sizeof target);
    for (size_t length = 1; length < sizeof target; length += length < 1100 ? 1 : 371) {
        target[length] = 0;
        snprintf(path, sizeof path, "links/%zu", length);
        layer_add(table, &(struct entry){ .type = ENTRY_SYMLINK, .path = path, .target = target });
        target[length] = 't';
    }
    build_one(&f, table);
    for (int count = 1; count < 60; count++) {
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "d%d/%0*d", count, 1 + count * i % 37, i);
            assert_int_equal(look_up(&f, path).mode, S_IFIFO);
        }
        uint64_t nid;
        snprintf(path, sizeof path, "d%d", count);
        struct erofs_inode directory = look_up(&f, path);
        static const char *const missing[] = { "", " ", "0 ", "00000x", "zzz" };
        for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
            assert_int_equal(
                erofs_image_lookup(&f.image, &directory, missing[i], strlen(missing[i]), &nid),
                -ENOENT);
    }
    for (size_t length = 1; length < sizeof target; length += length < 1100 ? 1 : 371) {
        const char *read;
        size_t read_length;
        snprintf(path, sizeof path, "links/%zu", length);
        struct erofs_inode link = look_up(&f, path);
        assert_int_equal(erofs_image_symlink(&f.image, &link, &read, &read_length), 0);
        assert_int_equal(read_length, length);
        assert_memory_equal(read, target, length);
    }
    release(&f);
}

static void reading_directories(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    char path[300];
    for (int i = 0; i < 1000; i++) {
        snprintf(path, sizeof path, "d/name%04d", i);
        layer_add(table,
                  &(struct entry){ .type = i % 2 ? ENTRY_FIFO : ENTRY_REGULAR, .path = path });
    }
    build_one(&f, table);
    struct erofs_inode directory = look_up(&f, "d");
    struct erofs_dirent dirent;
    uint64_t cookie = 0;
    for (int i = -2; i < 1000; i++, cookie = dirent.next_cookie) {
        assert_int_equal(erofs_image_readdir(&f.image, &directory, cookie, &dirent), 1);
        if (i < 0) {
            assert_int_equal(dirent.type, DT_DIR);
            continue;
        }
        snprintf(path, sizeof path, "name%04d", i);
        assert_int_equal(dirent.name_length, strlen(path));
        assert_memory_equal(dirent.name, path, dirent.name_length);
        assert_int_equal(dirent.type, i % 2 ? DT_FIFO : DT_REG);
    }
    assert_int_equal(erofs_image_readdir(&f.image, &directory, cookie, &dirent), 0);
    assert_int_equal(erofs_image_readdir(&f.image, &directory, UINT64_MAX, &dirent), 0);
    /* Cookies that were never given out. */
    assert_int_equal(erofs_image_readdir(&f.image, &directory, 5, &dirent), -EINVAL);
    assert_int_equal(erofs_image_readdir(&f.image, &directory, 504, &dirent), -EINVAL);
    release(&f);
}

static void mapping_files(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct erofs_extent extent;
    uint64_t tib = 1ull << 40;
    struct entry_table *table = layer_of("f small 700\nf empty 0");
    layer_add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                      .path = "huge",
                                      .size = tib + 1000,
                                      .data_offset = 512 * 9 });
    chain_add(&f.chain, layer_of("f lower 5"));
    chain_add(&f.chain, table);
    f.chain.layers[1].stream_length = f.chain.lengths[1] = tib + 10000;
    build(&f);
    struct erofs_inode small = look_up(&f, "small"), lower = look_up(&f, "lower");
    struct erofs_inode empty = look_up(&f, "empty"), huge = look_up(&f, "huge");

    assert_int_equal(erofs_image_map(&f.image, &small, 0, &extent), 0);
    assert_int_equal(extent.device, 2);
    assert_int_equal(extent.device_offset, 512);
    assert_int_equal(extent.length, 700);
    assert_int_equal(erofs_image_map(&f.image, &small, 699, &extent), 0);
    assert_int_equal(extent.device_offset, 512 + 699);
    assert_int_equal(extent.length, 1);
    assert_int_equal(erofs_image_map(&f.image, &small, 700, &extent), -EIO);
    assert_int_equal(erofs_image_map(&f.image, &empty, 0, &extent), -EIO);
    assert_int_equal(erofs_image_map(&f.image, &lower, 2, &extent), 0);
    assert_int_equal(extent.device, 1);

    assert_int_equal(erofs_image_map(&f.image, &huge, tib - 1, &extent), 0);
    assert_int_equal(extent.device_offset, 512 * 9 + tib - 1);
    assert_int_equal(extent.length, 1);
    assert_int_equal(erofs_image_map(&f.image, &huge, tib + 10, &extent), 0);
    assert_int_equal(extent.device_offset, 512 * 9 + tib + 10);
    assert_int_equal(extent.length, 990);
    release(&f);
}

/* All of a file as the map tells it: "OFFSET+LENGTH@DEVICE:STREAM_OFFSET ...", holes left out. */
static void assert_mapped(const struct fixture *f, const char *path, const char *expected)
{
    struct erofs_inode inode = look_up(f, path);
    struct erofs_extent extent, last = { 0 };
    char text[1000] = "";
    size_t end = 0; /* of what is written of the text without the last extent */
    uint64_t start = 0;
    for (uint64_t at = 0; at < inode.size; at += extent.length) {
        assert_int_equal(erofs_image_map(&f->image, &inode, at, &extent), 0);
        assert_true(extent.length > 0 && extent.length <= inode.size - at);
        if (extent.device && last.device == extent.device &&
            last.device_offset + last.length == extent.device_offset) {
            last.length += extent.length;
        } else {
            end = strlen(text);
            start = at;
            last = extent;
        }
        if (last.device)
            snprintf(text + end, sizeof text - end, "%s%llu+%llu@%u:%llu", end ? " " : "",
                     (unsigned long long)start, (unsigned long long)last.length, last.device,
                     (unsigned long long)last.device_offset);
    }
    assert_string_equal(text, expected);
}

static void mapping_sparse_files(void **state)
{
    (void)state;
    struct fixture f = { 0 };
    struct entry_table *table = layer_of("f before 700\nf empty 0");
    layer_add_sparse(table, "sparse", 40000, 4096, "0+10 20+5000 16384+1 39999+1");
    layer_add_sparse(table, "hole", 5000, 0, "");
    layer_add_sparse(table, "log", 1200000000000, 51200, "0+1000 1199999999999+1");
    layer_add_sparse(table, "small", 4096, 102400, "1+1");
    layer_add(table, &(struct entry){ .type = ENTRY_HARDLINK, .path = "z", .target = "sparse" });
    chain_add(&f.chain, layer_of("f lower 5"));
    chain_add(&f.chain, table);
    build(&f);
    assert_mapped(&f, "sparse", "0+10@2:4096 20+5000@2:4106 16384+1@2:9106 39999+1@2:9107");
    assert_mapped(&f, "z", "0+10@2:4096 20+5000@2:4106 16384+1@2:9106 39999+1@2:9107");
    assert_mapped(&f, "hole", "");
    assert_mapped(&f, "log", "0+1000@2:51200 1199999999999+1@2:52200");
    assert_mapped(&f, "small", "1+1@2:102400");
    assert_mapped(&f, "before", "0+700@2:512");

    static const struct {
        const char *path;
        uint64_t bytes;
    } stored[] = { { "sparse", 5012 }, { "hole", 0 },     { "log", 1001 },
                   { "small", 1 },     { "before", 700 }, { "empty", 0 } };
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        struct erofs_inode inode = look_up(&f, stored[i].path);
        assert_int_equal(erofs_image_stored_bytes(&f.image, &inode), stored[i].bytes);
    }
    /* The layers are the only devices that callers know. */
    assert_int_equal(f.image.device_count, 2);
    assert_int_equal(f.image.sparse_device, 3);
    struct digest tag;
    uint64_t length;
    assert_int_equal(erofs_image_device(&f.image, 3, &length, &tag, NULL), -1);
    release(&f);
}

/* Chunks are as small as 1,024 of them allow, and hold what they must. */
static void chunks_of_sparse_files(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        unsigned bits;
    } sizes[] = { { 1, 3 },           { 4u << 20, 3 },          { (4u << 20) + 1, 4 },
                  { 1ull << 40, 21 }, { (1ull << 40) + 1, 22 }, { 1ull << 50, 31 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_equal(erofs_sparse_chunk_bits(sizes[i].size), sizes[i].bits);

    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    char text[100];
    for (uint64_t length = 1; length < 9000; length += length < 20 ? 1 : 477)
        for (uint64_t offset = 1; offset < 13000; offset = offset * 3 + 1) {
            snprintf(text, sizeof text, "f%llu-%llu", (unsigned long long)offset,
                     (unsigned long long)length);
            char segment[100];
            snprintf(segment, sizeof segment, "%llu+%llu", (unsigned long long)offset,
                     (unsigned long long)length);
            layer_add_sparse(table, text, offset + length + offset % 7, 512, segment);
        }
    build_one(&f, table);
    for (uint64_t length = 1; length < 9000; length += length < 20 ? 1 : 477)
        for (uint64_t offset = 1; offset < 13000; offset = offset * 3 + 1) {
            char path[100];
            snprintf(path, sizeof path, "f%llu-%llu", (unsigned long long)offset,
                     (unsigned long long)length);
            snprintf(text, sizeof text, "%llu+%llu@1:512", (unsigned long long)offset,
                     (unsigned long long)length);
            assert_mapped(&f, path, text);
        }
    release(&f);
}

static void refuse_sparse(uint64_t size, unsigned count, const char *segments, const char *words)
{
    struct chain chain = { .count = 0 };
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    struct entry_table *table = entry_table_new();
    for (unsigned i = 0; i < count; i++) {
        char path[20];
        snprintf(path, sizeof path, "f%u", i);
        layer_add_sparse(table, path, size, 512, segments);
    }
    chain_add(&chain, table);
    assert_int_equal(merge_layers(chain.layers, 1, &bytes, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    if (!strstr(error_message(error), words))
        fail_msg("\"%s\" does not say \"%s\"", error_message(error), words);
    error_free(error);
    buffer_free(&bytes);
    chain_free(&chain);
}

static void sparse_files_too_large(void **state)
{
    (void)state;
    refuse_sparse((1ull << 50) + 1, 1, "", "1 PiB");
    refuse_sparse(1ull << 50, 2, "0+1", "2 TiB");
}

static void too_large(void **state)
{
    (void)state;
    struct chain chain = { .count = 0 };
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    chain_add(&chain, layer_of("f a 1"));
    chain.layers[0].stream_length = 1ull << 41;
    assert_int_equal(merge_layers(chain.layers, 1, &bytes, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    assert_non_null(strstr(error_message(error), "2 TiB"));
    error_free(error);
    buffer_free(&bytes);
    chain_free(&chain);
}

static void expect_attributes(const char *name, bool xattrs, bool acls)
{
    const struct entry_xattr xattr = { name, "\2\0\0\0", 4 };
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY, .path = "a" });
    layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY,
                                      .path = "a/b",
                                      .xattrs = &xattr,
                                      .xattr_count = name ? 1 : 0 });
    build_one(&f, table);
    assert_int_equal(f.image.has_xattrs, xattrs);
    assert_int_equal(f.image.has_acls, acls);
    release(&f);
}

static void whether_there_are_attributes(void **state)
{
    (void)state;
    expect_attributes(NULL, false, false);
    expect_attributes("security.capability", true, false);
    expect_attributes("user.a", true, false);
    expect_attributes("system.posix_acl_access", true, true);
    expect_attributes("system.posix_acl_default", true, true);
}

static void attributes(void **state)
{
    (void)state;
    static char large[65535];
    memset(large, 'v', sizeof large);
    const struct entry_xattr xattrs[] = {
        { "btrfs.unknown", "1", 1 },
        { "security.", "1", 1 },
        { "security.capability", "\1\0\2", 3 },
        { "system.posix_acl_access", "\2\0\0\0", 4 },
        { "system.posix_acl_access2", "1", 1 },
        { "system.posix_acl_default", "\2\0\0\0", 4 },
        { "trusted.a", "tr", 2 },
        { "user.a", large, sizeof large },
        { "user.b", "", 0 },
    };
    struct fixture f = { 0 };
    struct entry_table *table = entry_table_new();
    for (uint32_t count = 0; count <= 9; count++) {
        char path[20];
        snprintf(path, sizeof path, "f%u", count);
        layer_add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                          .path = path,
                                          .size = 5,
                                          .data_offset = 512,
                                          .xattrs = xattrs,
                                          .xattr_count = count });
        snprintf(path, sizeof path, "d%u/x", count);
        layer_add(table, &(struct entry){ .type = ENTRY_DIRECTORY,
                                          .path = path,
                                          .xattrs = xattrs,
                                          .xattr_count = count });
    }
    build_one(&f, table);
    assert_int_equal(look_up(&f, "f2").xattr_size, 0); /* none that EROFS has room for */
    struct erofs_inode inode = look_up(&f, "d9/x");
    const void *value;
    assert_int_equal(erofs_image_getxattr(&f.image, &inode, "security.capability", &value), 3);
    assert_memory_equal(value, "\1\0\2", 3);
    assert_int_equal(erofs_image_getxattr(&f.image, &inode, "system.posix_acl_default", &value), 4);
    assert_int_equal(erofs_image_getxattr(&f.image, &inode, "user.a", &value), sizeof large);
    assert_memory_equal(value, large, sizeof large);
    assert_int_equal(erofs_image_getxattr(&f.image, &inode, "user.b", &value), 0);
    static const char *const none[] = { "user.c", "user.", "btrfs.unknown", "security.", "" };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(erofs_image_getxattr(&f.image, &inode, none[i], &value), -ENODATA);

    static const char names[] = "security.capability\0system.posix_acl_access\0"
                                "system.posix_acl_default\0trusted.a\0user.a\0user.b";
    char list[sizeof names];
    assert_int_equal(erofs_image_listxattr(&f.image, &inode, NULL, 0), sizeof names);
    assert_int_equal(erofs_image_listxattr(&f.image, &inode, list, sizeof list - 1), -ERANGE);
    assert_int_equal(erofs_image_listxattr(&f.image, &inode, list, sizeof list), sizeof names);
    assert_memory_equal(list, names, sizeof names);
    release(&f);
}

static void too_many_attributes(void **state)
{
    (void)state;
    static char large[65535];
    static const char *const names[] = { "user.a", "user.b", "user.c", "user.d", "user.e" };
    struct entry_xattr xattrs[5];
    for (size_t i = 0; i < 5; i++)
        xattrs[i] = (struct entry_xattr){ names[i], large, sizeof large };
    struct entry_table *table = entry_table_new();
    layer_add(table,
              &(struct entry){
                  .type = ENTRY_FIFO, .path = "culprit", .xattrs = xattrs, .xattr_count = 5 });
    struct chain chain = { .count = 0 };
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    chain_add(&chain, table);
    assert_int_equal(merge_layers(chain.layers, 1, &bytes, &error), -1);
    assert_non_null(strstr(error_message(error), "culprit"));
    error_free(error);
    buffer_free(&bytes);
    chain_free(&chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inode_fields),
        cmocka_unit_test(directories_and_links_of_all_sizes),
        cmocka_unit_test(reading_directories),
        cmocka_unit_test(mapping_files),
        cmocka_unit_test(mapping_sparse_files),
        cmocka_unit_test(chunks_of_sparse_files),
        cmocka_unit_test(sparse_files_too_large),
        cmocka_unit_test(too_large),
        cmocka_unit_test(attributes),
        cmocka_unit_test(whether_there_are_attributes),
        cmocka_unit_test(too_many_attributes),
    };
    return cmocka_run_group_tests_name("erofs", tests, NULL, NULL);
}
