/* Trees that somebody may have filled with anything are taken apart, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "snapshotter/tree_removal-internal.h"
#include "tests/unit/snapshot_fixture.h"

static char *directory;
static int descriptor;
static atomic_bool stop;

static int set_up(void **state)
{
    (void)state;
    directory = temporary_directory_make();
    descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    atomic_store(&stop, false);
    return descriptor < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(descriptor);
    temporary_directory_remove(directory);
    return 0;
}

static void make_directory(const char *path)
{
    cleanup_free char *whole = format_text("%s/%s", directory, path);
    assert_int_equal(directory_make(whole, 0700, NULL), 0);
}

static void make_file(const char *path)
{
    int file = openat(descriptor, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0400);
    assert_true(file >= 0);
    close(file);
}

static bool is_there(const char *path)
{
    return faccessat(descriptor, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void remove_tree(void)
{
    tree_removal_run(descriptor, "tree", directory, &stop);
}

/* In each of its directories `width` others and as many files. */
static void make_full(const char *path, unsigned width, unsigned depth)
{
    make_directory(path);
    for (unsigned i = 0; i < width; i++) {
        cleanup_free char *file = format_text("%s/f%u", path, i);
        cleanup_free char *below = format_text("%s/d%u", path, i);
        make_file(file);
        if (depth) make_full(below, width, depth - 1);
    }
}

static void full_and_deep(void **state)
{
    (void)state;
    make_full("tree", 7, 3);
    remove_tree();
    assert_false(is_there("tree"));
}

/* More directories in one than fit into what the kernel lists at once. */
static void wide(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        cleanup_free char *path = format_text("tree/a-directory-with-a-longer-name-%u/below", i);
        make_directory(path);
    }
    remove_tree();
    assert_false(is_there("tree"));
}

static void other_kinds(void **state)
{
    (void)state;
    make_file("tree");
    remove_tree();
    assert_false(is_there("tree"));
    remove_tree(); /* nothing is there */

    make_directory("kept");
    make_file("kept/file");
    assert_int_equal(symlinkat("kept", descriptor, "tree"), 0);
    remove_tree();
    assert_false(is_there("tree"));
    make_directory("tree/below");
    assert_int_equal(symlinkat("../kept", descriptor, "tree/link"), 0);
    assert_int_equal(symlinkat("../../kept", descriptor, "tree/below/link"), 0);
    assert_int_equal(mkfifoat(descriptor, "tree/below/fifo", 0600), 0);
    remove_tree();
    assert_false(is_there("tree"));
    assert_true(is_there("kept/file"));
}

static bool may_mount;

/* Of this file system, too, as a container's bind mount is. */
static void what_is_mounted_in_it_stays(void **state)
{
    (void)state;
    if (!may_mount) skip();
    cleanup_free char *kept = format_text("%s/kept", directory);
    cleanup_free char *point = format_text("%s/tree/a/b/point", directory);
    make_directory("kept/below");
    make_file("kept/file");
    make_full("tree", 3, 1);
    make_directory("tree/a/b/point");
    make_directory("tree/a/c/d");
    assert_int_equal(mount(kept, point, NULL, MS_BIND, NULL), 0);
    remove_tree();
    assert_true(is_there("kept/file"));
    assert_true(is_there("kept/below"));
    assert_true(is_there("tree/a/b/point/file"));
    assert_false(is_there("tree/a/c"));
    assert_false(is_there("tree/d0"));
    assert_int_equal(umount2(point, MNT_DETACH), 0);
    remove_tree();
    assert_false(is_there("tree"));
}

static void set_immutable(const char *path, bool immutable)
{
    int file = openat(descriptor, path, O_RDONLY | O_CLOEXEC),
        flags = immutable ? FS_IMMUTABLE_FL : 0;
    int result = ioctl(file, FS_IOC_SETFLAGS, &flags);
    close(file);
    if (result < 0 && immutable) skip();
}

static void what_cannot_go_keeps_nothing_else(void **state)
{
    (void)state;
    make_full("tree", 3, 2);
    set_immutable("tree/d1/d1/f1", true);
    remove_tree();
    bool kept = is_there("tree/d1/d1/f1");
    bool others = is_there("tree/d0") || is_there("tree/d2") || is_there("tree/d1/d0") ||
                  is_there("tree/d1/d2") || is_there("tree/d1/d1/f0") || is_there("tree/f0");
    set_immutable("tree/d1/d1/f1", false);
    assert_true(kept);
    assert_false(others);
    remove_tree();
    assert_false(is_there("tree"));
}

static void it_can_be_stopped(void **state)
{
    (void)state;
    make_full("tree", 3, 1);
    atomic_store(&stop, true);
    remove_tree();
    assert_true(is_there("tree/d2/f2"));
}

#define REMOVAL_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    may_mount = snapshots_mount_alone();
    const struct CMUnitTest tests[] = {
        REMOVAL_TEST(full_and_deep),
        REMOVAL_TEST(wide),
        REMOVAL_TEST(other_kinds),
        REMOVAL_TEST(what_is_mounted_in_it_stays),
        REMOVAL_TEST(what_cannot_go_keeps_nothing_else),
        REMOVAL_TEST(it_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
