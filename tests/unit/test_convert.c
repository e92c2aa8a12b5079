/* Layers put together anew: where frames end, what the chunk table makes of them, which members may
 * be moved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "index/frame_mark.h"
#include "index/frame_plan.h"
#include "index/frame_writer.h"
#include "index/layer_members.h"
#include "index/layer_scan.h"
#include "tests/unit/layer_packer.h"
#include "tests/unit/tar_maker.h"

/* ---- tars and their plans ---- */

static void add_noise(struct buffer *tar, const char *name, size_t length, uint64_t seed,
                      uint64_t mtime)
{
    uint8_t block[512];
    uint64_t random = 88172645463325252u + seed * 7919;
    tar_block(block,
              &(struct tar_member){ .name = name, .type = '0', .mode = 0644, .mtime = mtime },
              length);
    tar_append(tar, block, sizeof block);
    uint8_t *data = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        data[i] = (uint8_t)random;
    }
    tar_data(tar, data, length);
    free(data);
}

struct planned {
    struct buffer tar;
    struct layer_members members;
    struct frame_plan plan;
};

/* Takes over the tar. */
static void plan_as_it_is(struct planned *ret, struct buffer *tar)
{
    struct error *error = NULL;
    *ret = (struct planned){ .tar = *tar };
    *tar = (struct buffer){ 0 };
    if (layer_members_read(&ret->members, ret->tar.data, ret->tar.length, &error) < 0 ||
        frame_plan_keep(&ret->plan, &ret->members, &error) < 0)
        fail_msg("%s", error_message(error));
}

static void planned_free(struct planned *planned)
{
    frame_plan_free(&planned->plan);
    layer_members_free(&planned->members);
    buffer_free(&planned->tar);
}

static size_t frame_length(const struct frame_plan *plan, size_t frame)
{
    return (size_t)(plan->frame_ends[frame] - (frame ? plan->frame_ends[frame - 1] : 0));
}

static struct digest frame_digest(const struct planned *planned, size_t frame)
{
    static uint8_t bytes[FRAME_LENGTH_MAX];
    struct digest digest;
    digest_of(bytes, frame_plan_gather(&planned->plan, frame, planned->tar.data, bytes), &digest);
    return digest;
}

/* How many frames of `left` are no frames of `right`. */
static size_t count_missing(const struct planned *left, const struct planned *right)
{
    size_t missing = 0;
    for (size_t i = 0; i < left->plan.frame_count; i++) {
        struct digest wanted = frame_digest(left, i);
        bool found = false;
        for (size_t k = 0; !found && k < right->plan.frame_count; k++) {
            struct digest digest = frame_digest(right, k);
            found = digest_equal(&wanted, &digest);
        }
        if (!found) missing++;
    }
    return missing;
}

/* ---- frames ---- */

static void test_frames_are_the_stream(void **state)
{
    (void)state;
    static uint8_t bytes[FRAME_LENGTH_MAX];
    struct buffer tar = { 0 };
    struct planned planned;
    add_noise(&tar, "small", 100, 1, 0);
    add_noise(&tar, "large", 1000001, 2, 0);
    add_noise(&tar, "border", FRAME_LENGTH, 3, 0);
    add_noise(&tar, "below", FRAME_LENGTH - 1, 4, 0);
    tar_end(&tar);
    if (buffer_append_zeros(&tar, 3 * FRAME_LENGTH_MAX + 5) < 0) abort(); /* nobody's business */
    plan_as_it_is(&planned, &tar);
    uint64_t at = 0;
    for (size_t i = 0; i < planned.plan.frame_count; i++) {
        size_t length = frame_plan_gather(&planned.plan, i, planned.tar.data, bytes);
        assert_int_equal(length, frame_length(&planned.plan, i));
        assert_true(length > 0 && length <= FRAME_LENGTH_MAX);
        assert_memory_equal(bytes, planned.tar.data + at, length);
        at += length;
    }
    assert_int_equal(at, planned.tar.length);
    planned_free(&planned);
}

static void test_a_large_file_is_cut_the_same_everywhere(void **state)
{
    (void)state;
    struct buffer one = { 0 }, other = { 0 };
    struct planned left, right;
    add_noise(&one, "before", 20000, 1, 0);
    add_noise(&one, "large", 2000000, 2, 0);
    tar_end(&one);
    add_noise(&other, "else", 123456, 3, 0);
    add_noise(&other, "entirely", 70000, 4, 0);
    add_noise(&other, "elsewhere", 2000000, 2, 99); /* another name, another time */
    add_noise(&other, "behind", 5000, 5, 0);
    tar_end(&other);
    plan_as_it_is(&left, &one);
    plan_as_it_is(&right, &other);
    assert_int_equal(left.plan.frame_count, 1 + 2000000 / FRAME_LENGTH + 1);
    /* What stands before and behind. */
    assert_int_equal(count_missing(&left, &right), 2);
    planned_free(&left);
    planned_free(&right);
}

static void test_a_header_alone_is_no_frame(void **state)
{
    (void)state;
    struct buffer tar = { 0 };
    struct planned planned;
    add_noise(&tar, "first", 600000, 1, 0);
    add_noise(&tar, "second", 600000, 2, 0);
    tar_end(&tar);
    plan_as_it_is(&planned, &tar);
    assert_int_equal(planned.plan.frame_count, 5);
    assert_int_equal(frame_length(&planned.plan, 0), 512 + FRAME_LENGTH);
    assert_int_equal(frame_length(&planned.plan, 2), 512 + FRAME_LENGTH);
    planned_free(&planned);
}

static void add_small_files(struct buffer *tar, unsigned first, unsigned end)
{
    char name[40];
    for (unsigned i = first; i < end; i++) {
        snprintf(name, sizeof name, "usr/lib/%u", i);
        add_noise(tar, name, i * 7919 % 30000, i, 0);
    }
}

static void test_a_new_file_moves_its_neighbours_only(void **state)
{
    (void)state;
    struct buffer one = { 0 }, other = { 0 };
    struct planned left, right;
    add_small_files(&one, 0, 600);
    tar_end(&one);
    add_small_files(&other, 0, 200);
    add_noise(&other, "new", 10000, 9999, 0);
    add_small_files(&other, 200, 600);
    tar_end(&other);
    plan_as_it_is(&left, &one);
    plan_as_it_is(&right, &other);
    assert_true(left.plan.frame_count > 20);
    assert_true(count_missing(&left, &right) < 6);
    planned_free(&left);
    planned_free(&right);
}

/* ---- blobs ---- */

static void write_plan(const struct frame_plan *plan, const struct mapping *stream,
                       unsigned threads, struct buffer *ret, struct written_blob *ret_written)
{
    struct error *error = NULL;
    FILE *file = tmpfile();
    assert_non_null(file);
    if (frame_writer_run(plan, stream, 1, threads, fileno(file), ret_written, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_int_equal(buffer_reserve(ret, ret_written->length), 0);
    ret->length = (size_t)read_fully_at(fileno(file), ret->data, ret_written->length, 0);
    assert_int_equal(ret->length, ret_written->length);
    fclose(file);
}

static void write_blob(const struct planned *planned, unsigned threads, struct buffer *ret,
                       struct written_blob *ret_written)
{
    struct error *error = NULL;
    struct mapping *stream = NULL;
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(write_fully(fileno(file), planned->tar.data, planned->tar.length), 0);
    if (mapping_new(&stream, fileno(file), planned->tar.length, MAPPING_READ_ONLY, &error) < 0)
        fail_msg("%s", error_message(error));
    write_plan(&planned->plan, stream, threads, ret, ret_written);
    mapping_free(stream);
    fclose(file);
}

static struct chunk_table *scan(const struct buffer *blob, size_t step, struct layer_tables *ret)
{
    struct memory_reader reader = { blob, 0, step };
    struct digest digest;
    struct error *error = NULL;
    digest_of(blob->data, blob->length, &digest);
    if (layer_scan(read_memory, &reader, blob->length, &digest, NULL, ret, &error) < 0)
        fail_msg("%s", error_message(error));
    return ret->chunks;
}

static void test_each_frame_is_a_chunk(void **state)
{
    (void)state;
    struct buffer tar = { 0 }, blob = { 0 }, again = { 0 };
    struct planned planned;
    struct written_blob written, written_again;
    struct layer_tables tables;
    add_small_files(&tar, 0, 300);
    add_noise(&tar, "large", 3000000, 1, 0);
    add_small_files(&tar, 300, 400);
    tar_end(&tar);
    plan_as_it_is(&planned, &tar);
    write_blob(&planned, 1, &blob, &written);
    write_blob(&planned, 3, &again, &written_again);
    assert_true(digest_equal(&written.digest, &written_again.digest));
    for (unsigned round = 0; round < 2; round++) {
        const struct chunk_table *table = scan(&blob, round ? 7 : SIZE_MAX, &tables);
        assert_true(digest_equal(&table->stream_digest, &written.stream_digest));
        assert_int_equal(table->chunk_count, planned.plan.frame_count);
        for (uint32_t i = 0; i < table->chunk_count; i++) {
            assert_int_equal(table->chunks[i].stream_offset + chunk_length(table, i),
                             planned.plan.frame_ends[i]);
            struct digest digest = frame_digest(&planned, i);
            assert_true(digest_equal(&table->chunks[i].digest, &digest));
        }
        layer_tables_free(&tables);
    }
    buffer_free(&blob);
    buffer_free(&again);
    planned_free(&planned);
}

/* Who writes a blob says what is a frame, but not how large a table becomes. */
static void test_tiny_frames_are_joined(void **state)
{
    (void)state;
    struct buffer stream = { 0 }, blob = { 0 }, frames = { 0 };
    struct layer_tables tables;
    layer_of_words(&stream, 1 << 20, false);
    zstd_append(&frames, &stream, 100);
    tar_append(&blob, frame_mark, FRAME_MARK_LENGTH);
    tar_append(&blob, frames.data, frames.length);
    const struct chunk_table *table = scan(&blob, SIZE_MAX, &tables);
    assert_true(table->chunk_count <= table->stream_length / CHUNK_MARKED_LEAST + 1);
    for (uint32_t i = 0; i + 1 < table->chunk_count; i++)
        assert_in_range(chunk_length(table, i), CHUNK_MARKED_LEAST, CHUNK_MARKED_LEAST + 99);
    layer_tables_free(&tables);
    buffer_free(&stream);
    buffer_free(&blob);
    buffer_free(&frames);
}

static void test_what_is_no_mark_changes_nothing(void **state)
{
    (void)state;
    for (size_t position = 0; position < FRAME_MARK_LENGTH; position++) {
        struct buffer stream = { 0 }, blob = { 0 };
        struct layer_tables tables;
        uint8_t mark[FRAME_MARK_LENGTH];
        memcpy(mark, frame_mark, sizeof mark);
        if (position >= 1 && position <= 7) continue; /* no skippable frame any more */
        mark[position] ^= 1;
        layer_of_words(&stream, 1 << 20, false);
        tar_append(&blob, mark, sizeof mark);
        zstd_append(&blob, &stream, 20000);
        const struct chunk_table *table = scan(&blob, SIZE_MAX, &tables);
        for (uint32_t i = 0; i + 1 < table->chunk_count; i++)
            assert_true(chunk_length(table, i) >= CHUNK_TARGET_LEAST);
        layer_tables_free(&tables);
        buffer_free(&stream);
        buffer_free(&blob);
    }
}

static void test_an_empty_stream_is_a_blob(void **state)
{
    (void)state;
    struct error *error = NULL;
    struct layer_members members;
    struct frame_plan plan;
    struct written_blob written;
    struct buffer blob = { 0 };
    struct layer_tables tables;
    assert_int_equal(layer_members_read(&members, NULL, 0, &error), 0);
    assert_int_equal(frame_plan_keep(&plan, &members, &error), 0);
    write_plan(&plan, NULL, 2, &blob, &written);
    assert_int_equal(scan(&blob, SIZE_MAX, &tables)->stream_length, 0);
    assert_int_equal(tables.chunks->kind, LAYER_ZSTD);
    layer_tables_free(&tables);
    buffer_free(&blob);
    frame_plan_free(&plan);
    layer_members_free(&members);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_are_the_stream),
        cmocka_unit_test(test_a_large_file_is_cut_the_same_everywhere),
        cmocka_unit_test(test_a_header_alone_is_no_frame),
        cmocka_unit_test(test_a_new_file_moves_its_neighbours_only),
        cmocka_unit_test(test_each_frame_is_a_chunk),
        cmocka_unit_test(test_tiny_frames_are_joined),
        cmocka_unit_test(test_what_is_no_mark_changes_nothing),
        cmocka_unit_test(test_an_empty_stream_is_a_blob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
