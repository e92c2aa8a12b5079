/* The tar reader: every header form is understood, damaged ones are refused and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/tar_reading.h"

static void types_and_fields(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_add(&tar, (struct tar_member){
                      .name = "./", .type = '5', .mode = 0751, .uid = 1, .gid = 2, .mtime = 3 });
    tar_add(&tar, (struct tar_member){ .name = "/bin//sh",
                                       .type = '0',
                                       .mode = 0104755,
                                       .uid = 4,
                                       .gid = 5,
                                       .mtime = 6,
                                       .data = "hello" });
    tar_file(&tar, "empty", NULL);
    tar_file(&tar, "second", "x");
    tar_link(&tar, '2', "./link", "../bin/sh");
    tar_link(&tar, '1', "hard", "./bin/sh");
    tar_add(&tar, (struct tar_member){ .name = "null", .type = '3', .major = 1, .minor = 3 });
    tar_add(&tar, (struct tar_member){ .name = "disk", .type = '4', .major = 8, .minor = 300 });
    tar_add(&tar, (struct tar_member){ .name = "pipe", .type = '6' });
    tar_end(&tar);
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_count(table), 9);

    const struct entry *root = entry_table_get(table, 0);
    assert_int_equal(root->type, ENTRY_DIRECTORY);
    assert_string_equal(root->path, "");
    assert_int_equal(root->mode, 0751);

    const struct entry *sh = entry_table_get(table, 1);
    assert_int_equal(sh->type, ENTRY_REGULAR);
    assert_string_equal(sh->path, "bin/sh");
    assert_int_equal(sh->mode, 04755);
    assert_int_equal(sh->uid, 4);
    assert_int_equal(sh->gid, 5);
    assert_int_equal(sh->mtime, 6);
    assert_int_equal(sh->size, 5);
    assert_int_equal(sh->data_offset, 1024);

    assert_int_equal(entry_table_get(table, 2)->size, 0);
    assert_int_equal(entry_table_get(table, 3)->data_offset, 1024 + 512 + 1024);
    assert_string_equal(entry_table_get(table, 4)->target, "../bin/sh");
    assert_int_equal(entry_table_get(table, 5)->type, ENTRY_HARDLINK);
    assert_string_equal(entry_table_get(table, 5)->target, "bin/sh");
    assert_int_equal(entry_table_get(table, 6)->type, ENTRY_CHARACTER_DEVICE);
    assert_int_equal(entry_table_get(table, 6)->device_minor, 3);
    assert_int_equal(entry_table_get(table, 7)->type, ENTRY_BLOCK_DEVICE);
    assert_int_equal(entry_table_get(table, 7)->device_minor, 300);
    assert_int_equal(entry_table_get(table, 8)->type, ENTRY_FIFO);
    entry_table_free(table);
}

static void old_forms(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    uint8_t block[512];
    tar_add(&tar, (struct tar_member){ .name = "v7", .v7 = true, .data = "abc" });
    tar_add(&tar, (struct tar_member){ .name = "old-directory/", .v7 = true, .mode = 0700 });
    tar_add(&tar, (struct tar_member){ .name = "contiguous", .type = '7', .data = "abc" });
    tar_add(&tar, (struct tar_member){ .name = "name", .type = '0', .prefix = "a/long/prefix" });

    /* GNU: the place of the prefix holds times; base 256 numbers. */
    struct tar_member gnu = { .name = "gnu", .type = '0', .prefix = "14000000000" };
    tar_block(block, &gnu, 0);
    memcpy(block + 257, "ustar  ", 8);
    memset(block + 108, 0, 8);
    block[108] = 0x80;
    block[112] = 0x01; /* uid 2^24 */
    memset(block + 136, 0xff, 12);
    block[147] = 0xfe; /* mtime -2 */
    tar_seal(block);
    tar_append(&tar, block, sizeof block);

    struct entry_table *table = accept(&tar); /* and no blocks of zeros at the end */
    assert_int_equal(entry_table_count(table), 5);
    assert_int_equal(entry_table_get(table, 0)->data_offset, 512);
    assert_int_equal(entry_table_get(table, 1)->type, ENTRY_DIRECTORY);
    assert_string_equal(entry_table_get(table, 1)->path, "old-directory");
    assert_int_equal(entry_table_get(table, 2)->type, ENTRY_REGULAR);
    assert_string_equal(entry_table_get(table, 3)->path, "a/long/prefix/name");
    assert_string_equal(entry_table_get(table, 4)->path, "gnu");
    assert_int_equal(entry_table_get(table, 4)->uid, 1 << 24);
    assert_int_equal(entry_table_get(table, 4)->mtime, -2);
    entry_table_free(table);
}

static void put_base_256(uint8_t *field, size_t length, int64_t value)
{
    for (size_t i = 0; i < length; i++)
        field[length - 1 - i] = i < 8 ? (uint8_t)((uint64_t)value >> 8 * i) : value < 0 ? 0xff : 0;
    field[0] |= 0x80;
}

/* Numbers that octal digits have no room for, in the header's other form. */
static void large_numbers(void **state)
{
    (void)state;
    struct entry_table *table = entry_table_new();
    struct tar_reader *reader = tar_reader_new(table);
    struct error *error = NULL;
    uint8_t block[512];
    uint64_t size = UINT64_C(10) << 30;
    tar_block(block, &(struct tar_member){ .name = "large", .type = '0' }, 0);
    put_base_256(block + 108, 8, 4294967295);
    put_base_256(block + 116, 8, 2147483648);
    put_base_256(block + 124, 12, (int64_t)size);
    put_base_256(block + 136, 12, -62135596800);
    tar_seal(block);
    assert_int_equal(tar_reader_feed(reader, block, sizeof block, &error), 0);
    uint8_t *zeros = calloc(1, 16u << 20);
    for (uint64_t fed = 0; fed < size; fed += 16u << 20)
        assert_int_equal(tar_reader_feed(reader, zeros, 16u << 20, &error), 0);
    free(zeros);
    struct buffer rest = { 0 };
    tar_add(&rest, (struct tar_member){ .name = "octal", .type = '0', .uid = 07777777 });
    tar_add(&rest,
            (struct tar_member){ .name = "d", .type = '3', .major = 4095, .minor = 1048575 });
    assert_int_equal(tar_reader_feed(reader, rest.data, rest.length, &error), 0);
    assert_int_equal(tar_reader_finish(reader, &error), 0);
    buffer_free(&rest);
    const struct entry *large = entry_table_get(table, 0);
    assert_int_equal(large->size, size);
    assert_int_equal(large->uid, 4294967295);
    assert_int_equal(large->gid, 2147483648);
    assert_int_equal(large->mtime, -62135596800);
    assert_string_equal(entry_table_get(table, 1)->path, "octal");
    assert_int_equal(entry_table_get(table, 1)->uid, 07777777);
    assert_int_equal(entry_table_get(table, 2)->device_minor, 1048575);
    tar_reader_free(reader);
    entry_table_free(table);
}

/* Types that only some archivers make, and headers that say nothing of the tree. */
static void unusual_types(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_add(&tar, (struct tar_member){ .name = "volume", .type = 'V', .data = "of a label" });
    tar_pax_text(&tar, "path", "label");
    tar_add(&tar, (struct tar_member){ .name = "volume", .type = 'V' });
    tar_add(&tar,
            (struct tar_member){ .name = "dumped/", .type = 'D', .mode = 0700, .data = "Yname" });
    tar_add(&tar, (struct tar_member){ .name = "contiguous", .type = '7', .data = "abc" });
    tar_pax_text(&tar, "VENDOR.unknown", "any \n thing = \xff");
    tar_file(&tar, "known", "x");
    tar_pax(&tar, 'g', "comment", "0123456789abcdef", 16);
    tar_meta(&tar, 'g', "", 0);
    tar_meta(&tar, 'x', "", 0);
    tar_add(&tar, (struct tar_member){ .name = "null", .type = '3', .mode = 0666 });
    struct buffer records = { 0 };
    tar_pax_record(&records, "SCHILY.devmajor", "300", 3);
    tar_pax_record(&records, "SCHILY.devminor", "1000000", 7);
    tar_meta(&tar, 'x', records.data, records.length);
    buffer_free(&records);
    tar_add(&tar, (struct tar_member){ .name = "large", .type = '4', .mode = 0666 });
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_count(table), 5);
    assert_string_equal(entry_table_get(table, 0)->path, "dumped");
    assert_int_equal(entry_table_get(table, 0)->type, ENTRY_DIRECTORY);
    assert_int_equal(entry_table_get(table, 1)->type, ENTRY_REGULAR);
    assert_string_equal(entry_table_get(table, 2)->path, "known");
    assert_string_equal(entry_table_get(table, 3)->path, "null");
    assert_int_equal(entry_table_get(table, 4)->device_major, 300);
    assert_int_equal(entry_table_get(table, 4)->device_minor, 1000000);
    entry_table_free(table);
}

/* Names are bytes, whatever a header says of their character set. */
static void names_of_any_bytes(void **state)
{
    (void)state;
    struct buffer tar = { 0 }, records = { 0 };
    tar_file(&tar, "latin-\xe9", NULL);
    tar_pax_record(&records, "hdrcharset", "BINARY", 6);
    tar_pax_record(&records, "path", "\xff\xfe\n\\", 4);
    tar_pax_record(&records, "linkpath", "\x80 \x01", 3);
    tar_meta(&tar, 'x', records.data, records.length);
    tar_link(&tar, '2', "x", "y");
    records.length = 0;
    tar_pax_record(&records, "hdrcharset", "ISO-IR 10646 2000 UTF-8", 23);
    tar_meta(&tar, 'x', records.data, records.length);
    tar_meta(&tar, 'L', "\xc3(", 3);
    tar_file(&tar, "x", NULL);
    buffer_free(&records);
    struct entry_table *table = accept(&tar);
    assert_string_equal(entry_table_get(table, 0)->path, "latin-\xe9");
    assert_string_equal(entry_table_get(table, 1)->path, "\xff\xfe\n\\");
    assert_string_equal(entry_table_get(table, 1)->target, "\x80 \x01");
    assert_string_equal(entry_table_get(table, 2)->path, "\xc3(");
    entry_table_free(table);
}

/* Old writers added the bytes of a header up with their signs. */
static void checksums(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = "\xff\xfe", .type = '0' }, 0);
    tar_append(&tar, block, sizeof block);
    int32_t sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < sizeof block; i++)
        sum += (int8_t)block[i];
    char text[16];
    snprintf(text, sizeof text, "%06o", (unsigned)sum);
    memcpy(block + 148, text, 7);
    tar_append(&tar, block, sizeof block);
    memcpy(block + 148, "  ", 2); /* blanks before and behind */
    snprintf(text, sizeof text, "%5o ", (unsigned)sum);
    memcpy(block + 150, text, 6);
    tar_append(&tar, block, sizeof block);
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_count(table), 3);
    entry_table_free(table);
}

static void long_names(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    char name[301], link[301];
    memset(name, 'n', 300);
    memset(link, 'k', 300);
    name[150] = link[150] = '/';
    name[300] = link[300] = 0;
    tar_meta(&tar, 'L', "replaced by the next", 20);
    tar_meta(&tar, 'L', name, 301);
    tar_meta(&tar, 'K', link, 301);
    tar_link(&tar, '2', "short", "short");
    tar_pax_text(&tar, "path", name);
    tar_pax_text(&tar, "comment", "this one replaces the path: the last header holds");
    tar_file(&tar, "not-renamed", NULL);
    tar_pax_text(&tar, "linkpath", link);
    tar_link(&tar, '1', "hard", "x");
    tar_file(&tar, "plain", NULL);
    struct entry_table *table = accept(&tar);
    assert_string_equal(entry_table_get(table, 0)->path, name);
    assert_string_equal(entry_table_get(table, 0)->target, link);
    assert_string_equal(entry_table_get(table, 1)->path, "not-renamed");
    assert_string_equal(entry_table_get(table, 2)->target, link);
    assert_string_equal(entry_table_get(table, 3)->path, "plain");
    entry_table_free(table);
}

static void pax_values(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seconds;
        uint32_t nanoseconds;
    } times[] = { { "12.5", 12, 500000000 },        { "0", 0, 0 },
                  { "-1.25", -2, 750000000 },       { "-3", -3, 0 },
                  { "7.1234567899", 7, 123456789 }, { "-0.0000000001", -1, 999999999 } };
    struct buffer tar = { 0 };
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        tar_pax_text(&tar, "mtime", times[i].text);
        tar_file(&tar, "time", NULL);
    }
    static const char records[] = "15 uid=3000000\n18 gid=4294967295\n12 size=600\n";
    tar_meta(&tar, 'x', records, sizeof records - 1);
    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = "sized", .type = '0' }, 0);
    tar_append(&tar, block, sizeof block);
    uint64_t offset = tar.length;
    char data[600] = "data";
    tar_data(&tar, data, sizeof data);
    tar_file(&tar, "after", NULL);
    struct entry_table *table = accept(&tar);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        assert_int_equal(entry_table_get(table, i)->mtime, times[i].seconds);
        assert_int_equal(entry_table_get(table, i)->mtime_nsec, times[i].nanoseconds);
    }
    const struct entry *sized = entry_table_get(table, 6);
    assert_int_equal(sized->uid, 3000000);
    assert_int_equal(sized->gid, 4294967295);
    assert_int_equal(sized->size, 600);
    assert_int_equal(sized->data_offset, offset);
    assert_string_equal(entry_table_get(table, 7)->path, "after");
    entry_table_free(table);
}

static void global_headers(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_pax(&tar, 'g', "uid", "77", 2);
    tar_pax(&tar, 'g', "SCHILY.xattr.user.all", "yes", 3);
    tar_file(&tar, "first", NULL);
    tar_pax_text(&tar, "uid", "5");
    tar_file(&tar, "own", NULL);
    tar_pax_text(&tar, "uid", ""); /* takes the global one back */
    tar_add(&tar, (struct tar_member){ .name = "none", .type = '0', .uid = 9 });
    tar_pax(&tar, 'g', "uid", "78", 2);
    tar_file(&tar, "last", NULL);
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_get(table, 0)->uid, 77);
    assert_int_equal(entry_table_get(table, 0)->xattr_count, 1);
    assert_int_equal(entry_table_get(table, 1)->uid, 5);
    assert_int_equal(entry_table_get(table, 2)->uid, 9);
    assert_int_equal(entry_table_get(table, 3)->uid, 78);
    entry_table_free(table);
}

static void attributes(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    struct buffer records = { 0 };
    tar_pax_record(&records, "SCHILY.xattr.user.z", "first", 5);
    tar_pax_record(&records, "SCHILY.xattr.user.z", "last\n", 5);
    tar_pax_record(&records, "SCHILY.xattr.security.b", "a\0c=d", 5);
    tar_pax_record(&records, "SCHILY.xattr.trusted.overlay.opaque", "y", 1);
    tar_pax_record(&records, "SCHILY.xattr.user.a", "", 0);
    tar_meta(&tar, 'x', records.data, records.length);
    buffer_free(&records);
    tar_directory(&tar, "d", 0755);
    tar_directory(&tar, "e", 0755);
    struct entry_table *table = accept(&tar);
    const struct entry *entry = entry_table_get(table, 0);
    assert_int_equal(entry->xattr_count, 3); /* what overlayfs would obey is dropped */
    assert_string_equal(entry->xattrs[0].name, "security.b");
    assert_int_equal(entry->xattrs[0].value_length, 5);
    assert_memory_equal(entry->xattrs[0].value, "a\0c=d", 5);
    assert_string_equal(entry->xattrs[1].name, "user.a");
    assert_int_equal(entry->xattrs[1].value_length, 0);
    assert_string_equal(entry->xattrs[2].name, "user.z");
    assert_memory_equal(entry->xattrs[2].value, "last\n", 5);
    assert_int_equal(entry_table_get(table, 1)->xattr_count, 0);
    entry_table_free(table);
}

static void whiteouts(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_file(&tar, "./a/.wh.gone", NULL);
    tar_file(&tar, "a/.wh..wh..opq", NULL);
    tar_file(&tar, ".wh..wh..opq", NULL);
    tar_file(&tar, ".wh.top", "with data");
    tar_file(&tar, ".wh..wh.aufs", NULL);
    tar_directory(&tar, ".wh..wh.plnk/", 0700);
    tar_file(&tar, ".wh..wh.plnk/1.2", NULL);
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_count(table), 4);
    assert_int_equal(entry_table_get(table, 0)->type, ENTRY_WHITEOUT);
    assert_string_equal(entry_table_get(table, 0)->path, "a/gone");
    assert_int_equal(entry_table_get(table, 1)->type, ENTRY_OPAQUE);
    assert_string_equal(entry_table_get(table, 1)->path, "a");
    assert_int_equal(entry_table_get(table, 2)->type, ENTRY_OPAQUE);
    assert_string_equal(entry_table_get(table, 2)->path, "");
    assert_string_equal(entry_table_get(table, 3)->path, "top");
    entry_table_free(table);
}

static void the_end(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_file(&tar, "file", "some text");
    tar_end(&tar);
    tar_append(&tar, "anything", 8);
    struct entry_table *table = accept(&tar);
    assert_int_equal(entry_table_count(table), 1);
    entry_table_free(table);

    /* The last file may lack its padding, but none of its data. */
    tar_file(&tar, "file", "some text");
    tar.length -= 500;
    entry_table_free(accept(&tar));
    tar_file(&tar, "file", "some text");
    tar.length -= 504;
    refuse(&tar, ERROR_INVALID, "ends inside an entry");

    tar_file(&tar, "file", "some text");
    if (buffer_append_zeros(&tar, 512) < 0) abort();
    tar_file(&tar, "file", "some text");
    refuse(&tar, ERROR_INVALID, "follows a block of zeros");

    struct buffer empty = { 0 };
    entry_table_free(accept(&empty));
    tar_append(&empty, "not a tar", 9);
    refuse(&empty, ERROR_INVALID, "ends inside");
}

static void same_in_any_pieces(void **state)
{
    (void)state;
    struct buffer tar = { 0 }, whole = { 0 };
    tar_pax_text(&tar, "mtime", "5.5");
    tar_meta(&tar, 'L', "a/long/name", 12);
    tar_meta(&tar, 'L', "", 0);
    tar_file(&tar, "x", "text of some length");
    tar_link(&tar, '2', "y", "z");
    tar_file(&tar, "w", NULL);
    tar_end(&tar);
    for (size_t piece = 1; piece < 1500; piece = piece * 3 / 2 + 1) {
        struct error *error = NULL;
        struct buffer encoded = { 0 };
        struct entry_table *table = read_tar(&tar, piece, &error);
        assert_non_null(table);
        assert_int_equal(entry_table_encode(table, &encoded, &error), 0);
        entry_table_free(table);
        if (!whole.data) {
            whole = encoded;
            continue;
        }
        assert_int_equal(encoded.length, whole.length);
        assert_memory_equal(encoded.data, whole.data, whole.length);
        buffer_free(&encoded);
    }
    buffer_free(&whole);
    buffer_free(&tar);
}

static void refuse_name(const char *name, const char *words)
{
    struct buffer tar = { 0 };
    tar_pax_text(&tar, "path", name);
    tar_file(&tar, "x", NULL);
    refuse(&tar, ERROR_INVALID, words);
}

static void bad_names(void **state)
{
    (void)state;
    char name[6000];
    refuse_name("../etc/passwd", "\"..\"");
    refuse_name("a/../../b", "\"..\"");
    refuse_name("././.", "root");
    refuse_name(".", "root");
    refuse_name(".wh.", "names nothing");
    refuse_name("a/.wh...", "names nothing");
    memset(name, 'n', sizeof name);
    name[256] = 0;
    refuse_name(name, "255");
    for (size_t i = 0; i < sizeof name; i++)
        name[i] = i % 2 ? '/' : 'n';
    name[4097] = 0;
    refuse_name(name, "4095");
    struct buffer tar = { 0 };
    tar_pax(&tar, 'x', "path", "a\0b", 3);
    tar_file(&tar, "x", NULL);
    refuse(&tar, ERROR_INVALID, "NUL");
    tar_link(&tar, '2', "link", "");
    refuse(&tar, ERROR_INVALID, "empty target");
    tar_link(&tar, '1', "link", "");
    refuse(&tar, ERROR_INVALID, "no target");
    tar_link(&tar, '1', "link", "a/../b");
    refuse(&tar, ERROR_INVALID, "\"..\"");
}

static void bad_headers(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_file(&tar, "file", NULL);
    tar.data[0] ^= 1;
    refuse(&tar, ERROR_INVALID, "checksum");

    static const struct {
        size_t offset;
        const char *text, *words;
    } fields[] = { { 124, "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", "size" },
                   { 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "size" },
                   { 124, "12345678901x", "size" },
                   { 108, "\x80\0\0\1\0\0\0\0", "user id" },
                   { 116, "\xff\xff\xff\xff\xff\xff\xff\xff", "group id" },
                   { 136, "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "time" } };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        uint8_t block[512];
        tar_block(block, &(struct tar_member){ .name = "culprit", .type = '0' }, 0);
        memcpy(block + fields[i].offset, fields[i].text, fields[i].offset < 124 ? 8 : 12);
        tar_seal(block);
        tar_append(&tar, block, sizeof block);
        refuse(&tar, ERROR_INVALID, fields[i].words);
    }

    tar_add(&tar, (struct tar_member){ .name = "culprit", .type = 'M' });
    refuse(&tar, ERROR_UNSUPPORTED, "culprit");
    tar_add(&tar, (struct tar_member){ .name = "culprit", .type = 'N' });
    refuse(&tar, ERROR_UNSUPPORTED, "type 'N'");
    tar_add(&tar, (struct tar_member){ .name = "culprit", .type = '\1' });
    refuse(&tar, ERROR_UNSUPPORTED, "type 0x01");
    tar_add(&tar, (struct tar_member){ .name = "culprit", .type = '3', .major = 4096 });
    refuse(&tar, ERROR_INVALID, "device number");
}

static void bad_pax(void **state)
{
    (void)state;
    static const char *const records[] = {
        "5 a=b",        "99 path=x\n", "x path=y\n",
        "10path=xyz\n", "7 path\n",    "6 =abc\n",
        "0 path=x\n",   "3 \n",        "99999999999999999999 path=x\n"
    };
    struct buffer tar = { 0 };
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
        tar_meta(&tar, 'x', records[i], strlen(records[i]));
        tar_file(&tar, "x", NULL);
        refuse(&tar, ERROR_INVALID, "PAX record");
    }
    static const char *const values[][2] = { { "uid", "4294967296" },
                                             { "gid", "-1" },
                                             { "size", "9223372036854775808" },
                                             { "size", "1x" },
                                             { "mtime", "1.2.3" },
                                             { "mtime", "." },
                                             { "mtime", "99999999999999999999" } };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        tar_pax_text(&tar, values[i][0], values[i][1]);
        tar_file(&tar, "x", NULL);
        refuse(&tar, ERROR_INVALID, values[i][0]);
    }
    char *large = calloc(1, 70000);
    tar_pax(&tar, 'x', "SCHILY.xattr.user.large", large, 65536);
    tar_file(&tar, "x", NULL);
    refuse(&tar, ERROR_UNSUPPORTED, "user.large");
    free(large);

    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = "meta", .type = 'x' }, (1u << 20) + 1);
    tar_append(&tar, block, sizeof block);
    refuse(&tar, ERROR_UNSUPPORTED, "1 MiB");
}

/* Damage in any place is refused or read as something else, but never more than that. */
static void random_damage(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_pax_text(&tar, "SCHILY.xattr.user.a", "value");
    tar_file(&tar, "file", "text");
    tar_meta(&tar, 'L', "name", 5);
    tar_link(&tar, '2', "y", "z");
    tar_end(&tar);
    uint32_t seed = 1;
    for (size_t round = 0; round < 20000; round++) {
        struct buffer damaged = { 0 };
        struct error *error = NULL;
        tar_append(&damaged, tar.data, tar.length);
        for (size_t flips = 0; flips < 1 + round % 3; flips++) {
            seed = seed * 1664525 + 1013904223;
            damaged.data[(seed >> 8) % damaged.length] = (uint8_t)(seed >> 4);
        }
        for (size_t at = 0; at + 1024 < damaged.length; at += 512)
            if (memcmp(damaged.data + at + 257, "ustar", 5) == 0) tar_seal(damaged.data + at);
        struct entry_table *table = read_tar(&damaged, 700, &error);
        assert_true((table == NULL) == (error != NULL));
        entry_table_free(table);
        error_free(error);
        buffer_free(&damaged);
    }
    buffer_free(&tar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_and_fields),   cmocka_unit_test(old_forms),
        cmocka_unit_test(large_numbers),      cmocka_unit_test(unusual_types),
        cmocka_unit_test(names_of_any_bytes), cmocka_unit_test(checksums),
        cmocka_unit_test(long_names),         cmocka_unit_test(pax_values),
        cmocka_unit_test(global_headers),     cmocka_unit_test(attributes),
        cmocka_unit_test(whiteouts),          cmocka_unit_test(the_end),
        cmocka_unit_test(same_in_any_pieces), cmocka_unit_test(bad_names),
        cmocka_unit_test(bad_headers),        cmocka_unit_test(bad_pax),
        cmocka_unit_test(random_damage),
    };
    return cmocka_run_group_tests_name("tar", tests, NULL, NULL);
}
