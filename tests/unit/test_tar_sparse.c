/* Sparse files in tars: every form of map is understood, and none that cannot be. */
#include "tests/unit/tar_reading.h"

/* "offset+length offset+length ..." of the only entry, or "dense". */
static void expect(struct buffer *tar, const char *name, uint64_t size, const char *segments,
                   uint64_t data_offset)
{
    char text[1000] = "";
    struct entry_table *table = accept(tar);
    assert_int_equal(entry_table_count(table), 2);
    const struct entry *entry = entry_table_get(table, 0);
    for (uint32_t i = 0; i < entry->segment_count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%llu+%llu", i ? " " : "",
                 (unsigned long long)entry->segments[i].offset,
                 (unsigned long long)entry->segments[i].length);
    assert_string_equal(entry->sparse ? text : "dense", segments);
    assert_string_equal(entry->path, name);
    assert_int_equal(entry->size, size);
    assert_int_equal(entry->data_offset, data_offset);
    /* What follows is found: the data was passed over. */
    assert_string_equal(entry_table_get(table, 1)->path, "after");
    entry_table_free(table);
}

/* The data of a file, and one more file behind it. */
static void add_data(struct buffer *tar, size_t length)
{
    if (buffer_append_zeros(tar, (length + 511) / 512 * 512) < 0) abort();
    tar_file(tar, "after", NULL);
}

static void put_pairs(uint8_t *to, const uint64_t (*pairs)[2], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        tar_octal(to + i * 24, 12, pairs[i][0]);
        tar_octal(to + i * 24 + 12, 12, pairs[i][1]);
    }
}

/* The header and extension blocks of an old GNU archive. */
static void add_old(struct buffer *tar, uint64_t real_size, uint64_t archived,
                    const uint64_t (*pairs)[2], size_t count)
{
    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = "old", .type = 'S' }, archived);
    memcpy(block + 257, "ustar  ", 8);
    memset(block + 345, 0, 512 - 345);
    size_t first = count < 4 ? count : 4;
    put_pairs(block + 386, pairs, first);
    block[482] = count > 4;
    if (real_size >> 33) {
        block[483] = 0x80;
        for (size_t i = 0; i < 8; i++)
            block[494 - i] = (uint8_t)(real_size >> 8 * i);
    } else {
        tar_octal(block + 483, 12, real_size);
    }
    tar_seal(block);
    tar_append(tar, block, sizeof block);
    for (size_t at = first; at < count;) {
        size_t more = count - at < 21 ? count - at : 21;
        memset(block, 0, sizeof block);
        put_pairs(block, pairs + at, more);
        at += more;
        block[504] = at < count;
        tar_append(tar, block, sizeof block);
    }
}

static void old_gnu(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    static const uint64_t two[][2] = { { 512, 1024 }, { 1000000, 100 } };
    add_old(&tar, 2000000, 1124, two, 2);
    add_data(&tar, 1124);
    expect(&tar, "old", 2000000, "512+1024 1000000+100", 512);

    /* All is a hole; and the form that GNU tar gives it, with an empty segment at the end. */
    add_old(&tar, UINT64_C(1) << 40, 0, NULL, 0);
    add_data(&tar, 0);
    expect(&tar, "old", UINT64_C(1) << 40, "", 0);
    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = "old", .type = 'S' }, 0);
    memcpy(block + 257, "ustar  ", 8);
    memset(block + 345, 0, 512 - 345);
    for (size_t field = 386; field <= 483; field += 483 - 386) {
        block[field] = 0x80;
        block[field + 6] = 1; /* 2^40 */
    }
    tar_octal(block + 398, 12, 0);
    tar_seal(block);
    tar_append(&tar, block, sizeof block);
    add_data(&tar, 0);
    expect(&tar, "old", UINT64_C(1) << 40, "", 0);
}

static void old_gnu_with_extension_blocks(void **state)
{
    (void)state;
    uint64_t pairs[60][2];
    for (size_t count = 4; count <= 60; count += count == 4 || count == 25 ? 1 : 7) {
        struct buffer tar = { 0 };
        for (size_t i = 0; i < count; i++) {
            pairs[i][0] = i * 4096;
            pairs[i][1] = 512;
        }
        add_old(&tar, count * 4096, count * 512, (const uint64_t(*)[2])pairs, count);
        size_t offset = tar.length;
        add_data(&tar, count * 512);
        for (size_t piece = 1; piece < 2000; piece += 313) {
            struct error *error = NULL;
            struct entry_table *table = read_tar(&tar, piece, &error);
            assert_non_null(table);
            const struct entry *entry = entry_table_get(table, 0);
            assert_int_equal(entry->segment_count, count);
            assert_int_equal(entry->segments[count - 1].offset, (count - 1) * 4096);
            assert_int_equal(entry->data_offset, offset);
            assert_int_equal(entry_table_count(table), 2);
            entry_table_free(table);
        }
        buffer_free(&tar);
    }
}

/* A PAX header of "KEY=VALUE" texts, ended by NULL, and the file's own header. */
static void add_pax(struct buffer *tar, size_t archived, ...)
{
    struct buffer records = { 0 };
    uint8_t block[512];
    va_list texts;
    va_start(texts, archived);
    for (const char *text; (text = va_arg(texts, const char *));) {
        char key[100];
        size_t length = strcspn(text, "=");
        memcpy(key, text, length);
        key[length] = 0;
        tar_pax_record(&records, key, text + length + 1, strlen(text + length + 1));
    }
    va_end(texts);
    tar_meta(tar, 'x', records.data, records.length);
    buffer_free(&records);
    tar_block(block, &(struct tar_member){ .name = "GNUSparseFile.0/x", .type = '0' }, archived);
    tar_append(tar, block, sizeof block);
}

static void pax_0_0(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    add_pax(&tar, 700, "GNU.sparse.size=5000", "GNU.sparse.numblocks=2", "GNU.sparse.offset=0",
            "GNU.sparse.numbytes=512", "GNU.sparse.offset=4000", "GNU.sparse.numbytes=188", NULL);
    add_data(&tar, 700);
    expect(&tar, "GNUSparseFile.0/x", 5000, "0+512 4000+188", 1536);
}

static void pax_0_1(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    add_pax(&tar, 700, "GNU.sparse.size=5000", "GNU.sparse.numblocks=3", "GNU.sparse.name=dir/name",
            "GNU.sparse.map=10,690,1000,10,5000,0", "path=other", NULL);
    add_data(&tar, 700);
    expect(&tar, "dir/name", 5000, "10+690 1000+10", 1536);

    add_pax(&tar, 0, "GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.size=5000",
            "GNU.sparse.numblocks=0", NULL);
    add_data(&tar, 0);
    expect(&tar, "GNUSparseFile.0/x", 5000, "", 0);
}

/* `map` padded to blocks, then `length` bytes of data. */
static void add_1_0(struct buffer *tar, const char *real_size, const char *map, size_t length)
{
    char size[60];
    snprintf(size, sizeof size, "GNU.sparse.realsize=%s", real_size);
    add_pax(tar, (strlen(map) + 511) / 512 * 512 + length, "GNU.sparse.major=1",
            "GNU.sparse.minor=0", "GNU.sparse.name=name", size, NULL);
    tar_data(tar, map, strlen(map));
    add_data(tar, length);
}

static void pax_1_0(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    add_1_0(&tar, "1200000000000", "2\n1024\n512\n1199999999000\n1000\n", 1512);
    expect(&tar, "name", 1200000000000, "1024+512 1199999999000+1000", 2048);
    add_1_0(&tar, "77", "0\n", 0);
    expect(&tar, "name", 77, "", 0);

    /* Numbers that cross the border of a block. */
    char map[2000] = "120\n";
    for (size_t i = 0; i < 120; i++)
        snprintf(map + strlen(map), 20, "%zu\n1\n", 100000 + i * 2);
    add_1_0(&tar, "200000", map, 120);
    for (size_t piece = 1; piece < 2000; piece += 97) {
        struct error *error = NULL;
        struct entry_table *table = read_tar(&tar, piece, &error);
        assert_non_null(table);
        const struct entry *entry = entry_table_get(table, 0);
        assert_int_equal(entry->segment_count, 120);
        assert_int_equal(entry->segments[119].offset, 100238);
        assert_int_equal(entry->data_offset, 1536 + (strlen(map) + 511) / 512 * 512);
        entry_table_free(table);
    }
    buffer_free(&tar);
}

static void one_form_for_each_file(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    /* Empty segments say nothing, neighbours are one. */
    add_pax(&tar, 300, "GNU.sparse.size=5000",
            "GNU.sparse.map=0,0,10,100,110,0,110,50,160,50,1000,100,1100,0,2000,0", NULL);
    add_data(&tar, 300);
    expect(&tar, "GNUSparseFile.0/x", 5000, "10+200 1000+100", 1536);
    /* Nothing is a hole. */
    add_pax(&tar, 300, "GNU.sparse.size=300", "GNU.sparse.map=0,200,200,100", NULL);
    add_data(&tar, 300);
    expect(&tar, "GNUSparseFile.0/x", 300, "dense", 1536);
    add_pax(&tar, 0, "GNU.sparse.size=0", "GNU.sparse.map=0,0", NULL);
    add_data(&tar, 0);
    expect(&tar, "GNUSparseFile.0/x", 0, "dense", 0);
}

static void refuse_map(const char *size, const char *map, enum error_kind kind, const char *words)
{
    struct buffer tar = { 0 };
    char size_record[100], map_record[200];
    snprintf(size_record, sizeof size_record, "GNU.sparse.size=%s", size);
    snprintf(map_record, sizeof map_record, "GNU.sparse.map=%s", map);
    add_pax(&tar, 300, size_record, map_record, NULL);
    add_data(&tar, 300);
    refuse(&tar, kind, words);
}

static void bad_maps(void **state)
{
    (void)state;
    refuse_map("5000", "100,200,50,100", ERROR_INVALID, "overlap");
    refuse_map("5000", "100,200,299,100", ERROR_INVALID, "overlap");
    refuse_map("5000", "100,200,50,0", ERROR_INVALID, "overlap");
    refuse_map("5000", "4900,300", ERROR_INVALID, "behind the end");
    refuse_map("5000", "0,300,5001,0", ERROR_INVALID, "behind the end");
    refuse_map("5000", "0,100", ERROR_INVALID, "100 bytes of data and the archive has 300");
    refuse_map("5000", "0,100,200,300", ERROR_INVALID, "400 bytes");
    refuse_map("5000", "9223372036854775807,300", ERROR_INVALID, "out of range");
    refuse_map("5000", "18446744073709551615,300", ERROR_INVALID, "out of range");
    refuse_map("5000", "18446744073709551616,300", ERROR_INVALID, "malformed");
    refuse_map("9223372036854775808", "0,300", ERROR_INVALID, "out of range");
    static const char *const malformed[] = {
        "0,300,", "0", "0,", ",", "0,300 ", "-1,300", "0,,300"
    };
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        refuse_map("5000", malformed[i], ERROR_INVALID, "malformed");
}

static void bad_records(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    add_pax(&tar, 0, "GNU.sparse.map=0,0", NULL);
    refuse(&tar, ERROR_INVALID, "does not tell the file's size");
    add_pax(&tar, 0, "GNU.sparse.major=2", "GNU.sparse.minor=0", NULL);
    refuse(&tar, ERROR_UNSUPPORTED, "version 2.0");
    add_pax(&tar, 0, "GNU.sparse.size=9", "GNU.sparse.numblocks=2", "GNU.sparse.map=0,0", NULL);
    refuse(&tar, ERROR_INVALID, "cut short");
    add_pax(&tar, 0, "GNU.sparse.size=9", "GNU.sparse.offset=2", NULL);
    refuse(&tar, ERROR_INVALID, "cut short");
    add_pax(&tar, 0, "GNU.sparse.size=9", "GNU.sparse.numbytes=2", NULL);
    refuse(&tar, ERROR_INVALID, "malformed");
    add_pax(&tar, 0, "GNU.sparse.size=9", "GNU.sparse.offset=2", "GNU.sparse.offset=2", NULL);
    refuse(&tar, ERROR_INVALID, "malformed");
    add_pax(&tar, 0, "GNU.sparse.size=9", "GNU.sparse.map=0,0", "GNU.sparse.major=1",
            "GNU.sparse.minor=0", NULL);
    refuse(&tar, ERROR_INVALID, "two kinds");

    tar_pax(&tar, 'g', "GNU.sparse.map", "0,1", 3);
    tar_file(&tar, "x", "x");
    refuse(&tar, ERROR_INVALID, "global");
    tar_pax_text(&tar, "GNU.sparse.map", "0,0");
    tar_directory(&tar, "x", 0755);
    refuse(&tar, ERROR_INVALID, "does not tell");
    struct buffer records = { 0 };
    tar_pax_record(&records, "GNU.sparse.map", "0,0", 3);
    tar_pax_record(&records, "GNU.sparse.size", "9", 1);
    tar_meta(&tar, 'x', records.data, records.length);
    buffer_free(&records);
    tar_directory(&tar, "x", 0755);
    refuse(&tar, ERROR_INVALID, "no file");
}

static void bad_old_maps(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    static const uint64_t overlapping[][2] = { { 0, 512 }, { 511, 512 } };
    add_old(&tar, 4096, 1024, overlapping, 2);
    refuse(&tar, ERROR_INVALID, "overlap");
    tar_add(&tar, (struct tar_member){ .name = "culprit", .type = 'S' });
    refuse(&tar, ERROR_UNSUPPORTED, "culprit");
    uint64_t pairs[5][2] = { { 0, 1 }, { 2, 1 }, { 4, 1 }, { 6, 1 }, { 8, 1 } };
    add_old(&tar, 4096, 5, (const uint64_t(*)[2])pairs, 5);
    tar.length -= 100;
    refuse(&tar, ERROR_INVALID, "ends inside");
    add_old(&tar, 4096, 5, (const uint64_t(*)[2])pairs, 5);
    memcpy(tar.data + 512, "not octal", 9);
    refuse(&tar, ERROR_INVALID, "malformed");
}

static void bad_1_0(void **state)
{
    (void)state;
    static const struct {
        const char *map, *words;
    } maps[] = {
        { "1\n0\n", "malformed" },
        { "1\n0\n\n", "malformed" },
        { "x\n", "malformed" },
        { "1\n0\n00000000000000000001\n", "malformed" },
        { "1\n5000\n1\n", "behind the end" },
        { "1\n0\n2\n", "2 bytes of data and the archive has 0" },
        { "2\n0\n0\n-1\n", "malformed" },
    };
    struct buffer tar = { 0 };
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        add_1_0(&tar, "5000", maps[i].map, 0);
        refuse(&tar, ERROR_INVALID, maps[i].words);
    }
    add_1_0(&tar, "5000", "99999999\n", 0);
    refuse(&tar, ERROR_UNSUPPORTED, "segments");
    /* A map that is longer than the entry. */
    add_pax(&tar, 300, "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9", NULL);
    add_data(&tar, 300);
    refuse(&tar, ERROR_INVALID, "cut short");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_gnu),      cmocka_unit_test(old_gnu_with_extension_blocks),
        cmocka_unit_test(pax_0_0),      cmocka_unit_test(pax_0_1),
        cmocka_unit_test(pax_1_0),      cmocka_unit_test(one_form_for_each_file),
        cmocka_unit_test(bad_maps),     cmocka_unit_test(bad_records),
        cmocka_unit_test(bad_old_maps), cmocka_unit_test(bad_1_0),
    };
    return cmocka_run_group_tests_name("tar_sparse", tests, NULL, NULL);
}
