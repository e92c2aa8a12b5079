/* Metadata images: what goes in can be read back, and nothing but our own layout is accepted. */
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
#include "tests/unit/tree_maker.h"

struct fixture {
    struct chain chain;
    struct buffer bytes;
    struct erofs_image image;
};

static void build(struct fixture *fixture)
{
    struct error *error = NULL;
    if (merge_layers(fixture->chain.layers, fixture->chain.count, &fixture->bytes, &error) < 0 ||
        erofs_image_open(&fixture->image, fixture->bytes.data, fixture->bytes.length, &error) < 0 ||
        erofs_image_validate(&fixture->image, fixture->chain.lengths,
                             (uint32_t)fixture->chain.count, &error) < 0)
        fail_msg("%s", error_message(error));
}

static void build_one(struct fixture *fixture, struct entry_table *layer)
{
    chain_add(&fixture->chain, layer);
    build(fixture);
}

static void release(struct fixture *fixture)
{
    chain_free(&fixture->chain);
    buffer_free(&fixture->bytes);
}

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

/* A file of segments "OFFSET+LENGTH ...". */
static void add_sparse(struct entry_table *table, const char *path, uint64_t size,
                       uint64_t data_offset, const char *text)
{
    struct entry_segment segments[20];
    struct entry entry = { .type = ENTRY_REGULAR,
                           .path = path,
                           .size = size,
                           .data_offset = data_offset,
                           .sparse = true,
                           .segments = segments };
    while (*text) {
        char *next;
        uint64_t offset = strtoull(text, &next, 10);
        segments[entry.segment_count++] =
            (struct entry_segment){ offset, strtoull(next + 1, &next, 10) };
        text = next + (*next == ' ');
    }
    layer_add(table, &entry);
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
    add_sparse(table, "sparse", 40000, 4096, "0+10 20+5000 16384+1 39999+1");
    add_sparse(table, "hole", 5000, 0, "");
    add_sparse(table, "log", 1200000000000, 51200, "0+1000 1199999999999+1");
    add_sparse(table, "small", 4096, 102400, "1+1");
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
            add_sparse(table, text, offset + length + offset % 7, 512, segment);
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
        add_sparse(table, path, size, 512, segments);
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
    add_sparse(table, "d/sparse", 40000, 4096, "0+10 20+5000 16384+1 39999+1");
    add_sparse(table, "d/hole", 5000, 0, "");
    add_sparse(table, "d/end", 4097, 9 * 512, "4096+1");
    add_sparse(table, "d/small", 100, 11 * 512, "1+99");
    layer_add(table, &(struct entry){ .type = ENTRY_CHARACTER_DEVICE, .path = "c" });
    layer_add(table, &(struct entry){ .type = ENTRY_HARDLINK, .path = "d/hard", .target = "c" });
    layer_add(table, &(struct entry){ .type = ENTRY_FIFO, .path = "d/e/f/g/pipe" });
    chain_add(&f->chain, layer_of("f lower 5\nd x 755"));
    chain_add(&f->chain, table);
    build(f);
}

static volatile uint8_t sink; /* so that reads are not left out */

/* Calls all that can be called; whatever the answers, it must end and stay inside. */
static void read_inode(const struct erofs_image *image, const struct erofs_inode *inode)
{
    const void *value;
    const char *target;
    size_t length;
    struct erofs_extent extent;
    char names[300];
    ssize_t got = erofs_image_getxattr(image, inode, "user.name", &value);
    for (ssize_t i = 0; i < got; i++)
        sink = ((const uint8_t *)value)[i];
    (void)erofs_image_listxattr(image, inode, NULL, 0);
    (void)erofs_image_listxattr(image, inode, names, sizeof names);
    if (erofs_image_symlink(image, inode, &target, &length) == 0)
        for (size_t i = 0; i < length; i++)
            sink = (uint8_t)target[i];
    (void)erofs_image_map(image, inode, 0, &extent);
    (void)erofs_image_map(image, inode, inode->size / 2, &extent);
    (void)erofs_image_map(image, inode, inode->size - 1, &extent);
}

static void read_all(const struct erofs_image *image, uint64_t nid, int depth, int *budget)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    if (depth == 0 || --*budget < 0 || erofs_image_inode(image, nid, &inode) < 0) return;
    read_inode(image, &inode);
    for (uint64_t cookie = 0; erofs_image_readdir(image, &inode, cookie, &dirent) == 1;
         cookie = dirent.next_cookie) {
        uint64_t found;
        assert_true(dirent.next_cookie > cookie);
        if (--*budget < 0) return;
        (void)erofs_image_lookup(image, &inode, dirent.name, dirent.name_length, &found);
        if (dirent.name_length > 2 || dirent.name[0] != '.')
            read_all(image, dirent.nid, depth - 1, budget);
    }
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
            read_all(&image, image.root_nid, 30, &budget);
        }
        free(copy);
    }
    release(&f);
}

/* Takes an image apart into layers that must give the same image again. */
struct rebuild {
    const struct erofs_image *image;
    struct entry_table *tables[2];
    char *first_names[10000]; /* by nid */
};

static void rebuild_xattrs(const struct rebuild *rebuild, const struct erofs_inode *inode,
                           char *names, struct entry_xattr *xattrs, struct entry *entry)
{
    ssize_t length = erofs_image_listxattr(rebuild->image, inode, names, 1000);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        struct entry_xattr *xattr = &xattrs[entry->xattr_count++];
        xattr->name = names + at;
        ssize_t got = erofs_image_getxattr(rebuild->image, inode, names + at, &xattr->value);
        assert_true(got >= 0);
        xattr->value_length = (uint32_t)got;
    }
    entry->xattrs = xattrs;
}

/* Every extent of the file as a segment, if there is a hole. */
static void rebuild_data(const struct rebuild *rebuild, const struct erofs_inode *inode,
                         struct entry_segment *segments, struct entry *entry,
                         struct erofs_extent *ret_first)
{
    struct erofs_extent extent;
    uint64_t end = 0;
    *ret_first = (struct erofs_extent){ .device = 2 };
    for (uint64_t at = 0; at < inode->size; at += extent.length) {
        assert_int_equal(erofs_image_map(rebuild->image, inode, at, &extent), 0);
        if (extent.device == 0) {
            entry->sparse = true;
            continue;
        }
        if (entry->segment_count > 0 && end == at) {
            segments[entry->segment_count - 1].length += extent.length;
        } else {
            if (entry->segment_count == 0) *ret_first = extent;
            assert_true(entry->segment_count < 100);
            segments[entry->segment_count++] = (struct entry_segment){ at, extent.length };
        }
        end = at + extent.length;
    }
    entry->segments = segments;
}

static void rebuild_inode(struct rebuild *rebuild, const char *path,
                          const struct erofs_inode *inode)
{
    static const enum entry_type types[16] = {
        [1] = ENTRY_FIFO,         [2] = ENTRY_CHARACTER_DEVICE, [4] = ENTRY_DIRECTORY,
        [6] = ENTRY_BLOCK_DEVICE, [8] = ENTRY_REGULAR,          [10] = ENTRY_SYMLINK,
    };
    char names[1000], target[4096] = { 0 };
    struct entry_xattr xattrs[10];
    struct erofs_extent extent = { .device = 2 };
    struct entry entry = {
        .type = types[inode->mode >> 12],
        .path = path,
        .mode = inode->mode & 07777,
        .uid = inode->uid,
        .gid = inode->gid,
        .mtime = inode->mtime,
        .mtime_nsec = inode->mtime_nsec,
        .size = inode->size,
        .device_major = inode->rdev >> 8 & 0xfff,
        .device_minor = (inode->rdev & 0xff) | (inode->rdev >> 12 & 0xfff00),
    };
    rebuild_xattrs(rebuild, inode, names, xattrs, &entry);
    if (S_ISLNK(inode->mode)) {
        const char *text;
        size_t length;
        assert_int_equal(erofs_image_symlink(rebuild->image, inode, &text, &length), 0);
        memcpy(target, text, length);
        entry.target = target;
    }
    struct entry_segment segments[100];
    if (S_ISREG(inode->mode) && inode->size > 0)
        rebuild_data(rebuild, inode, segments, &entry, &extent);
    entry.data_offset = extent.device_offset;
    if (rebuild->first_names[inode->nid])
        entry = (struct entry){ .type = ENTRY_HARDLINK,
                                .path = path,
                                .target = rebuild->first_names[inode->nid] };
    layer_add(rebuild->tables[entry.type == ENTRY_REGULAR ? extent.device - 1 : 1], &entry);
}

static void rebuild_tree(struct rebuild *rebuild, const char *path, uint64_t nid)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    assert_int_equal(erofs_image_inode(rebuild->image, nid, &inode), 0);
    rebuild_inode(rebuild, path, &inode);
    if (!rebuild->first_names[nid]) rebuild->first_names[nid] = strdup(path);
    for (uint64_t cookie = 0; S_ISDIR(inode.mode); cookie = dirent.next_cookie) {
        int status = erofs_image_readdir(rebuild->image, &inode, cookie, &dirent);
        assert_true(status >= 0);
        if (status == 0) break;
        if (dirent.name_length <= 2 && memcmp(dirent.name, "..", dirent.name_length) == 0) continue;
        char *child;
        if (asprintf(&child, "%s%s%.*s", path, *path ? "/" : "", (int)dirent.name_length,
                     dirent.name) < 0)
            abort();
        rebuild_tree(rebuild, child, dirent.nid);
        free(child);
    }
}

/* What is accepted is what the writer writes, to the byte. */
static void assert_ours(const struct fixture *f, const struct erofs_image *image)
{
    struct rebuild rebuild = { image, { entry_table_new(), entry_table_new() }, { 0 } };
    struct buffer bytes = { 0 };
    struct error *error = NULL;
    struct merge_layer layers[2] = { f->chain.layers[0], f->chain.layers[1] };
    rebuild_tree(&rebuild, "", image->root_nid);
    layers[0].entries = rebuild.tables[0];
    layers[1].entries = rebuild.tables[1];
    if (merge_layers(layers, 2, &bytes, &error) < 0) fail_msg("%s", error_message(error));
    uint64_t length = image->size + image->sparse_map.count * SPARSE_MAP_RECORD_BYTES;
    assert_int_equal(bytes.length, length);
    assert_memory_equal(bytes.data, image->data, length);
    buffer_free(&bytes);
    entry_table_free(rebuild.tables[0]);
    entry_table_free(rebuild.tables[1]);
    for (size_t i = 0; i < sizeof rebuild.first_names / sizeof *rebuild.first_names; i++)
        free(rebuild.first_names[i]);
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
    add_sparse(table, "a", 40000, 4096, "0+4096 8192+10 12000+100");
    add_sparse(table, "b", 5000, 51200, "4999+1");
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
        cmocka_unit_test(inode_fields),
        cmocka_unit_test(directories_and_links_of_all_sizes),
        cmocka_unit_test(reading_directories),
        cmocka_unit_test(mapping_files),
        cmocka_unit_test(mapping_sparse_files),
        cmocka_unit_test(chunks_of_sparse_files),
        cmocka_unit_test(sparse_files_too_large),
        cmocka_unit_test(too_large),
        cmocka_unit_test(attributes),
        cmocka_unit_test(too_many_attributes),
        cmocka_unit_test(reading_damaged_images),
        cmocka_unit_test(only_our_images_are_accepted),
        cmocka_unit_test(other_sparse_maps),
        cmocka_unit_test(images_cut_short),
        cmocka_unit_test(other_layers),
    };
    return cmocka_run_group_tests_name("erofs", tests, NULL, NULL);
}
