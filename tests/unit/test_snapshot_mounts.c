/* The mounts that snapshots give, made for real: what is written, removed and replaced shows in the
 * snapshots above and nowhere else. In a mount namespace of its own, as root. */
#include "tests/unit/snapshot_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>

#include "tests/unit/lazy_always.h"

struct fixture {
    struct snapshots snapshots;
    char *point;
};

static bool may_mount; /* we are root, in a namespace where nobody sees it */

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct snapshots *snapshots = &fixture->snapshots;
    snapshots->directory = temporary_directory_make();
    *state = fixture;
    if (!may_mount) return 0;
    /* Wherever the tests run, overlayfs takes this as an upper directory. */
    if (mount("tmpfs", snapshots->directory, "tmpfs", 0, "size=64m") < 0) return -1;
    snapshots->root = format_text("%s/state", snapshots->directory);
    snapshots->options.root = snapshots->root;
    fixture->point = format_text("%s/point", snapshots->directory);
    assert_int_equal(mkdir(fixture->point, 0700), 0);
    snapshots_open(snapshots);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    snapshots_close(&fixture->snapshots);
    if (may_mount) umount2(fixture->snapshots.directory, MNT_DETACH);
    temporary_directory_remove(fixture->snapshots.directory);
    free(fixture->snapshots.root);
    free(fixture->point);
    free(fixture);
    return 0;
}

/* As containerd does with options that are longer than a page: from the directory that the paths
 * have in common, with what is left of them. */
static char *join_options(const struct fixture *fixture, const struct mount_entry *entry)
{
    char *prefix = format_text("%s/snapshots/", fixture->snapshots.root);
    char *joined = strdup("");
    assert_int_equal(chdir(prefix), 0);
    for (size_t i = 0; i < entry->option_count; i++) {
        char *option = strdup(entry->options[i]), *found;
        while ((found = strstr(option, prefix)))
            memmove(found, found + strlen(prefix), strlen(found + strlen(prefix)) + 1);
        char *longer = format_text("%s%s%s", joined, i ? "," : "", option);
        free(joined);
        free(option);
        joined = longer;
    }
    free(prefix);
    return joined;
}

static void mount_snapshot(const struct fixture *fixture, struct mount_list *mounts)
{
    const struct mount_entry *entry = &mounts->entries[0];
    if (strcmp(entry->type, "bind") == 0) {
        assert_int_equal(mount(entry->source, fixture->point, NULL, MS_BIND | MS_REC, NULL), 0);
        if (strcmp(entry->options[0], "ro") == 0)
            assert_int_equal(
                mount(NULL, fixture->point, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
    } else {
        char *options = join_options(fixture, entry);
        if (mount(entry->source, fixture->point, entry->type, 0, options) < 0)
            fail_msg("mount %s: %s", options, strerror(errno));
        free(options);
    }
    mount_list_free(mounts);
}

static void mount_key(struct fixture *fixture, const char *key)
{
    struct mount_list mounts = mounts_of(&fixture->snapshots, key);
    mount_snapshot(fixture, &mounts);
}

static void unmount(const struct fixture *fixture)
{
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(umount2(fixture->point, 0), 0);
}

static char *in_point(const struct fixture *fixture, const char *name)
{
    return format_text("%s/%s", fixture->point, name);
}

static int write_file(const struct fixture *fixture, const char *name, const char *text)
{
    char *path = in_point(fixture, name);
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    int number = file < 0 ? errno : 0;
    if (file >= 0) {
        assert_int_equal(write_fully(file, text, strlen(text)), 0);
        close(file);
    }
    free(path);
    return number;
}

/* NULL: it is not there. */
static void assert_file(const struct fixture *fixture, const char *name, const char *text)
{
    struct buffer found = { 0 };
    char *path = in_point(fixture, name);
    int result = file_read(path, 1000, &found, NULL);
    if (text) {
        assert_int_equal(result, 0);
        assert_int_equal(found.length, strlen(text));
        assert_memory_equal(found.data, text, found.length);
    } else {
        assert_int_equal(result, -1);
    }
    buffer_free(&found);
    free(path);
}

static void remove_file(const struct fixture *fixture, const char *name)
{
    char *path = in_point(fixture, name);
    assert_int_equal(remove(path), 0);
    free(path);
}

static void test_layers(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    assert_int_equal(try_prepare(snapshots, "first", "", &no_labels), 0);
    mount_key(fixture, "first");
    assert_int_equal(write_file(fixture, "kept", "1"), 0);
    assert_int_equal(write_file(fixture, "changed", "1"), 0);
    assert_int_equal(write_file(fixture, "removed", "1"), 0);
    unmount(fixture);
    assert_int_equal(try_commit(snapshots, "one", "first", "", &no_labels), 0);

    assert_int_equal(try_prepare(snapshots, "second", "one", &no_labels), 0);
    mount_key(fixture, "second");
    assert_file(fixture, "kept", "1");
    assert_int_equal(write_file(fixture, "changed", "2"), 0);
    remove_file(fixture, "removed");
    assert_int_equal(write_file(fixture, "added", "2"), 0);
    unmount(fixture);
    assert_int_equal(try_commit(snapshots, "two", "second", "", &no_labels), 0);

    assert_int_equal(try_view(snapshots, "view", "two"), 0);
    mount_key(fixture, "view");
    assert_file(fixture, "kept", "1");
    assert_file(fixture, "changed", "2");
    assert_file(fixture, "removed", NULL);
    assert_file(fixture, "added", "2");
    assert_int_equal(write_file(fixture, "new", "3"), EROFS);
    unmount(fixture);

    assert_int_equal(try_view(snapshots, "view of one", "one"), 0);
    mount_key(fixture, "view of one");
    assert_file(fixture, "changed", "1");
    assert_file(fixture, "removed", "1");
    assert_int_equal(write_file(fixture, "new", "3"), EROFS);
    unmount(fixture);
}

/* Two containers of one image do not see each other's files. */
static void test_containers_are_apart(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    commit_layer(snapshots, "image", "", &no_labels);
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "second" : "first";
        assert_int_equal(try_prepare(snapshots, key, "image", &no_labels), 0);
        mount_key(fixture, key);
        assert_file(fixture, "image", "image");
        assert_file(fixture, "mine", NULL);
        assert_int_equal(write_file(fixture, "mine", key), 0);
        unmount(fixture);
    }
    mount_key(fixture, "first");
    assert_file(fixture, "mine", "first");
    unmount(fixture);
}

/* Far more than a page of options. */
static void test_many_layers(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    char name[16], parent[16] = "";
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof name, "l%d", i);
        commit_layer(snapshots, name, parent, &no_labels);
        memcpy(parent, name, sizeof parent);
    }
    assert_int_equal(try_prepare(snapshots, "container", parent, &no_labels), 0);
    mount_key(fixture, "container");
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof name, "l%d", i);
        assert_file(fixture, name, name);
    }
    unmount(fixture);
}

#define CHAIN_ID "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* A read-only mount, as the real ones are. */
static void make_lazy_image(const char *directory)
{
    char *file = format_text("%s/lazy-file", directory);
    assert_int_equal(mkdir(directory, 0755), 0);
    assert_int_equal(mount("tmpfs", directory, "tmpfs", 0, "size=1m,mode=755"), 0);
    assert_int_equal(file_write_atomic(file, "lazy", 4, 0644, NULL), 0);
    assert_int_equal(mount(NULL, directory, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    free(file);
}

static void test_above_a_lazy_image(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    char *image = format_text("%s/image", snapshots->directory);
    make_lazy_image(image);
    const struct lazy_source source = lazy_always(image);
    snapshots->options.lazy = &source;
    snapshots_reopen(snapshots);
    struct labels labels =
        labels_of(LABEL_SNAPSHOT_REF "=" CHAIN_ID, "containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=" CHAIN_ID, NULL);
    assert_int_equal(try_prepare(snapshots, "pull", "", &labels), ERROR_EXISTS);
    commit_layer(snapshots, "above", CHAIN_ID, &no_labels);
    labels_free(&labels);

    assert_int_equal(try_prepare(snapshots, "container", "above", &no_labels), 0);
    mount_key(fixture, "container");
    assert_file(fixture, "lazy-file", "lazy");
    assert_file(fixture, "above", "above");
    remove_file(fixture, "lazy-file");
    assert_file(fixture, "lazy-file", NULL);
    assert_int_equal(write_file(fixture, "mine", "1"), 0);
    unmount(fixture);
    assert_int_equal(try_view(snapshots, "view", CHAIN_ID), 0);
    mount_key(fixture, "view");
    assert_file(fixture, "lazy-file", "lazy");
    assert_file(fixture, "above", NULL);
    assert_int_equal(write_file(fixture, "mine", "1"), EROFS);
    unmount(fixture);
    assert_int_equal(umount2(image, MNT_DETACH), 0);
    snapshots_close(snapshots);
    free(image);
}

#define MOUNT_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    may_mount = snapshots_mount_alone();
    const struct CMUnitTest tests[] = {
        MOUNT_TEST(test_layers),
        MOUNT_TEST(test_containers_are_apart),
        MOUNT_TEST(test_many_layers),
        MOUNT_TEST(test_above_a_lazy_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
