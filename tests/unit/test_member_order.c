/* Which members of a layer may be moved, where to, and what a profile says of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "index/frame_plan.h"
#include "index/layer_touches.h"
#include "index/member_order.h"
#include "tests/unit/tar_maker.h"

static void read_members(const struct buffer *tar, struct layer_members *ret)
{
    struct error *error = NULL;
    if (layer_members_read(ret, tar->data, tar->length, &error) < 0)
        fail_msg("%s", error_message(error));
}

/* Ranks the member of each name by its place in `first` (ends with NULL). */
static uint32_t *ranks_of(const struct layer_members *members, const char *const *first)
{
    uint32_t *ranks = malloc((members->count + 1) * sizeof *ranks);
    for (size_t i = 0; i < members->count; i++) {
        ranks[i] = RANK_NONE;
        for (uint32_t k = 0; members->members[i].entry && first[k]; k++)
            if (strcmp(members->members[i].entry->path, first[k]) == 0) ranks[i] = k;
    }
    return ranks;
}

/* The paths in their new order, separated by blanks; "kept" where nothing may be moved. Frees the
 * tar. */
static char *order_of(struct buffer *tar, const struct entry_table *lower, const char *const *first)
{
    struct layer_members members;
    struct error *error = NULL;
    struct buffer text = { 0 };
    bool kept;
    read_members(tar, &members);
    uint32_t *ranks = ranks_of(&members, first);
    size_t *order = malloc((members.count + 1) * sizeof *order);
    if (member_order(&members, ranks, &lower, lower ? 1 : 0, order, &kept, &error) < 0)
        fail_msg("%s", error_message(error));
    for (size_t i = 0; !kept && i < members.count; i++) {
        const char *path = members.members[order[i]].entry->path;
        if (i) tar_append(&text, " ", 1);
        tar_append(&text, path, strlen(path));
    }
    if (kept) tar_append(&text, "kept", 4);
    tar_append(&text, "", 1);
    free(order);
    free(ranks);
    layer_members_free(&members);
    buffer_free(tar);
    return (char *)text.data;
}

static void expect(struct buffer *tar, const struct entry_table *lower, const char *expected)
{
    static const char *const first[] = { "d/b", "a", NULL };
    char *found = order_of(tar, lower, first);
    assert_string_equal(found, expected);
    free(found);
}

static void start(struct buffer *tar)
{
    *tar = (struct buffer){ 0 };
    tar_file(tar, "a", "A");
    tar_directory(tar, "d", 0755);
    tar_file(tar, "d/b", "B");
}

static void test_files_of_the_profile_come_first(void **state)
{
    (void)state;
    struct buffer tar;
    start(&tar);
    tar_file(&tar, "c", "C");
    tar_link(&tar, '1', "e", "c");
    tar_link(&tar, '2', "s", "anywhere");
    tar_link(&tar, '1', "f", "e");
    tar_file(&tar, ".wh.w", NULL);
    tar_directory(&tar, "d/sub", 0755);
    tar_end(&tar);
    expect(&tar, NULL, "d s w d/sub d/b a c e f");
}

static void test_what_could_matter_is_kept(void **state)
{
    (void)state;
    struct buffer tar;
    start(&tar);
    tar_file(&tar, "a", "twice");
    expect(&tar, NULL, "kept");

    start(&tar);
    tar_file(&tar, ".wh.a", NULL);
    expect(&tar, NULL, "kept");

    start(&tar); /* through a link of its own layer, before and behind it */
    tar_link(&tar, '2', "l", "d");
    tar_file(&tar, "l/x", "X");
    expect(&tar, NULL, "kept");
    start(&tar);
    tar_file(&tar, "l/x", "X");
    tar_link(&tar, '2', "l", "d");
    expect(&tar, NULL, "kept");

    start(&tar); /* below what is whited out */
    tar_file(&tar, ".wh.w", NULL);
    tar_file(&tar, "w/x", "X");
    expect(&tar, NULL, "kept");

    start(&tar); /* a link to what comes later, or lies below */
    tar_link(&tar, '1', "l", "later");
    tar_file(&tar, "later", "L");
    expect(&tar, NULL, "kept");
    start(&tar);
    tar_link(&tar, '1', "l", "below");
    expect(&tar, NULL, "kept");

    start(&tar); /* a header that speaks for all that follow */
    tar_pax(&tar, 'g', "mtime", "1", 1);
    tar_file(&tar, "x", "X");
    expect(&tar, NULL, "kept");

    start(&tar); /* what stands for nothing in a tree */
    tar_add(&tar, (struct tar_member){ .name = "volume", .type = 'V' });
    expect(&tar, NULL, "kept");
    start(&tar);
    tar_file(&tar, ".wh..wh.plnk", NULL);
    expect(&tar, NULL, "kept");
}

static void test_nothing_of_a_profile(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    tar_directory(&tar, "a", 0755);
    tar_file(&tar, "x", "X");
    expect(&tar, NULL, "kept");
}

static void test_links_of_lower_layers_count(void **state)
{
    (void)state;
    struct error *error = NULL;
    struct buffer tar;
    struct entry_table *lower = entry_table_new();
    assert_int_equal(
        entry_table_append(
            lower, &(struct entry){ .type = ENTRY_SYMLINK, .path = "l", .target = "d" }, &error),
        0);
    start(&tar);
    tar_file(&tar, "other/x", "X");
    expect(&tar, lower, "d d/b a other/x");
    start(&tar);
    tar_file(&tar, "l/x", "X");
    expect(&tar, lower, "kept");
    start(&tar);
    tar_file(&tar, "l", "in its place");
    expect(&tar, lower, "d d/b a l");
    entry_table_free(lower);
}

/* An opaque marker stands beside its directory. */
static void test_opaque_directories(void **state)
{
    (void)state;
    struct buffer tar;
    start(&tar);
    tar_file(&tar, "d/.wh..wh..opq", NULL);
    expect(&tar, NULL, "d d d/b a");
    start(&tar);
    tar_link(&tar, '2', "l", "d");
    tar_file(&tar, "l/.wh..wh..opq", NULL);
    expect(&tar, NULL, "kept");
}

/* The last member of the old stream lacks its padding; headers travel with what they are about. */
static void test_a_reordered_stream_is_a_tar_of_the_same(void **state)
{
    (void)state;
    struct buffer tar = { 0 }, made = { 0 };
    struct error *error = NULL;
    struct layer_members members, again;
    struct frame_plan plan;
    bool kept;
    tar_file(&tar, "last", "some text");
    tar_pax_text(&tar, "path", "named/by/a/header");
    tar_file(&tar, "short", "the second");
    tar_file(&tar, "first", "cut here");
    tar.length -= 512 - strlen("cut here");
    read_members(&tar, &members);
    const char *const names[] = { "first", "named/by/a/header", NULL };
    uint32_t *ranks = ranks_of(&members, names);
    size_t order[3];
    assert_int_equal(member_order(&members, ranks, NULL, 0, order, &kept, &error), 0);
    assert_false(kept);
    assert_int_equal(frame_plan_reorder(&plan, &members, order, &error), 0);
    assert_int_equal(plan.frame_count, 1);
    assert_int_equal(plan.stream_length % 512, 0);
    assert_int_equal(buffer_reserve(&made, FRAME_LENGTH_MAX), 0);
    made.length = frame_plan_gather(&plan, 0, tar.data, made.data);
    assert_int_equal(made.length, plan.stream_length);
    read_members(&made, &again);
    assert_int_equal(again.count, 3);
    static const char *const contents[] = { "cut here", "the second", "some text" };
    static const char *const paths[] = { "first", "named/by/a/header", "last" };
    for (size_t i = 0; i < 3; i++) {
        const struct layer_member *member = &again.members[i];
        assert_string_equal(member->entry->path, paths[i]);
        assert_int_equal(member->place.start, plan.member_starts[order[i]]);
        assert_memory_equal(made.data + member->place.data, contents[i], strlen(contents[i]));
    }
    free(ranks);
    frame_plan_free(&plan);
    layer_members_free(&members);
    layer_members_free(&again);
    buffer_free(&tar);
    buffer_free(&made);
}

/* ---- what a profile says ---- */

#define CHUNK (256u << 10)

static void add_zeros(struct buffer *tar, const char *name, size_t length)
{
    uint8_t block[512];
    tar_block(block, &(struct tar_member){ .name = name, .type = '0', .mode = 0644 }, length);
    tar_append(tar, block, sizeof block);
    if (buffer_append_zeros(tar, (length + 511) / 512 * 512) < 0) abort();
}

/* Named first, then what lay in the same chunks; a large file that only begins there is chance. */
static void test_what_a_profile_says(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    struct error *error = NULL;
    struct layer_members members;
    struct layer_touches touches;
    add_zeros(&tar, "beside", 1000);          /* chunk 0 */
    add_zeros(&tar, "named", 1000);           /* chunk 0 */
    add_zeros(&tar, "large", 10 * CHUNK);     /* chunks 0 to 10 */
    add_zeros(&tar, "read", 4 * CHUNK);       /* chunks 10 to 14 */
    add_zeros(&tar, "untouched", 10 * CHUNK); /* chunks 14 to 24 */
    tar_end(&tar);
    read_members(&tar, &members);
    struct chunk chunks[40] = { 0 };
    struct chunk_table table = { .kind = LAYER_TAR, .chunks = chunks };
    table.stream_length = tar.length + 100 * CHUNK; /* it may say what it likes */
    table.chunk_count = 40;
    for (uint32_t i = 0; i < 40; i++)
        chunks[i].stream_offset = (uint64_t)i * CHUNK;
    char *paths[] = { "named", "nowhere" };
    struct profile_entry entries[] = {
        { .layer = 1, .first = 11, .count = 2, .path = 1 },
        { .layer = 0, .first = 0, .count = 1, .path = 0 },
        { .layer = 1, .first = 14, .count = 1, .path = PROFILE_NO_PATH },
        { .layer = 1, .first = 38, .count = 1, .path = 0 },
        { .layer = 1, .first = 0, .count = 1, .path = 0 }
    };
    struct profile profile = {
        .entries = entries, .entry_count = 5, .paths = paths, .path_count = 2
    };
    assert_int_equal(layer_touches_find(&touches, &members, &table, &profile, 1, &error), 0);
    static const uint32_t unnamed = RANK_NONE / 2;
    const uint32_t ranks[] = { unnamed + 1, 0, RANK_NONE, unnamed, RANK_NONE };
    assert_memory_equal(touches.ranks, ranks, sizeof ranks);
    /* Two chunks of "read", its end, and the two small files. */
    assert_int_equal(touches.count, 5);
    assert_int_equal(touches.touches[0].member, 3);
    assert_int_equal(touches.touches[0].length, CHUNK);
    assert_int_equal(touches.touches[2].entry, 2);
    assert_true(touches.touches[4].named);
    assert_int_equal(touches.touches[4].member, 1);
    assert_int_equal(touches.touches[4].offset, 0);
    assert_int_equal(touches.touches[4].length, 512 + 1024);
    layer_touches_free(&touches);
    layer_members_free(&members);
    buffer_free(&tar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_of_the_profile_come_first),
        cmocka_unit_test(test_what_could_matter_is_kept),
        cmocka_unit_test(test_nothing_of_a_profile),
        cmocka_unit_test(test_links_of_lower_layers_count),
        cmocka_unit_test(test_opaque_directories),
        cmocka_unit_test(test_a_reordered_stream_is_a_tar_of_the_same),
        cmocka_unit_test(test_what_a_profile_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
