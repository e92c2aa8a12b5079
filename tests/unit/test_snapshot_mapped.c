/* Snapshots in user namespaces above a lazy image: what is below them is shown with its owners
 * mapped, as long as the snapshot is there. In a mount namespace of its own, as root. */
#include "tests/unit/snapshot_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <sys/mount.h>

#include "snapshotter/id_mapping-internal.h"
#include "tests/unit/lazy_always.h"

#define CHAIN_ID "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define LAYERS   "ROOT/mapped/3/ordinary/2/fs:ROOT/mapped/3/lazy"

struct fixture {
    struct snapshots snapshots;
    struct lazy_source source;
    char *image;
    struct labels labels;
};

static bool may_mount; /* we are root, in a namespace where nobody sees it */

static void make_image(const struct fixture *fixture)
{
    assert_int_equal(mount("tmpfs", fixture->image, "tmpfs", 0, "size=1m,mode=755"), 0);
    char *path = format_text("%s/file", fixture->image);
    assert_int_equal(file_write_atomic(path, "lazy", 4, 0644, NULL), 0);
    assert_int_equal(chown(path, 33, 44), 0);
    free(path);
}

/* A lazy layer, and an ordinary one above it. */
static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct snapshots *snapshots = &fixture->snapshots;
    snapshots->directory = temporary_directory_make();
    *state = fixture;
    if (!may_mount) return 0;
    if (mount("tmpfs", snapshots->directory, "tmpfs", 0, "size=64m") < 0) return -1;
    snapshots->root = format_text("%s/state", snapshots->directory);
    fixture->image = format_text("%s/image", snapshots->directory);
    assert_int_equal(mkdir(fixture->image, 0700), 0);
    make_image(fixture);
    fixture->source = lazy_always(fixture->image);
    snapshots->options = (struct snapshotter_options){ .root = snapshots->root,
                                                       .lazy = &fixture->source,
                                                       .remap_ids = true };
    snapshots_open(snapshots);
    struct labels pull =
        labels_of(LABEL_SNAPSHOT_REF "=" CHAIN_ID, "containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=" CHAIN_ID, NULL);
    assert_int_equal(try_prepare(snapshots, "pull", "", &pull), ERROR_EXISTS);
    labels_free(&pull);
    commit_layer(snapshots, "above", CHAIN_ID, &no_labels);
    fixture->labels = labels_of(LABEL_UID_MAPPING "=0:100000:65536",
                                LABEL_GID_MAPPING "=0:200000:40,40:300000:100", NULL);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    if (may_mount) {
        snapshots_close(&fixture->snapshots);
        umount2(fixture->snapshots.directory, MNT_DETACH);
    }
    labels_free(&fixture->labels);
    temporary_directory_remove(fixture->snapshots.directory);
    free(fixture->snapshots.root);
    free(fixture->image);
    free(fixture);
    return 0;
}

static void assert_lowers(struct fixture *fixture, const char *key, const char *expected)
{
    char *text = describe_mounts(&fixture->snapshots, key), *lowers = strstr(text, "lowerdir=");
    assert_non_null(lowers);
    assert_null(strstr(text, "uidmap="));
    lowers[strcspn(lowers, ",")] = 0;
    assert_string_equal(lowers + strlen("lowerdir="), expected);
    free(text);
}

/* Where nothing is, its owner is -1. */
static void assert_owner(const struct fixture *fixture, const char *name, int user, int group)
{
    struct stat found = { .st_uid = (uid_t)-1, .st_gid = (gid_t)-1 };
    char *path = format_text("%s/%s", fixture->snapshots.root, name);
    if (stat(path, &found) < 0) assert_int_equal(errno, ENOENT);
    assert_int_equal(found.st_uid, user);
    assert_int_equal(found.st_gid, group);
    free(path);
}

static void assert_mapped(const struct fixture *fixture)
{
    assert_owner(fixture, "mapped/3/lazy/file", 100033, 300004);
    assert_owner(fixture, "mapped/3/lazy", 100000, 200000);
    assert_owner(fixture, "mapped/3/ordinary/2/fs/above", 100000, 200000);
}

static void assert_nothing_mapped(const struct fixture *fixture)
{
    char *path = format_text("%s/mapped", fixture->snapshots.root);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
}

static void unmount(const struct fixture *fixture, const char *name)
{
    char *path = format_text("%s/%s", fixture->snapshots.root, name);
    assert_int_equal(umount2(path, 0), 0);
    assert_int_equal(umount2(path, 0), -1);
    free(path);
}

static void test_owners_are_mapped(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    assert_int_equal(try_prepare(snapshots, "a", "above", &fixture->labels), 0);
    assert_lowers(fixture, "a", LAYERS);
    assert_mapped(fixture);
    assert_owner(fixture, "snapshots/3/fs", 100000, 200000);
    assert_owner(fixture, "snapshots/2/fs/above", 0, 0);
    char *path = format_text("%s/mapped/3/lazy/file", snapshots->root);
    assert_int_equal(open(path, O_WRONLY | O_CLOEXEC), -1);
    free(path);
    assert_int_equal(try_remove(snapshots, "a"), 0);
    assert_nothing_mapped(fixture);

    assert_int_equal(try_prepare(snapshots, "b", CHAIN_ID, &fixture->labels), 0);
    assert_lowers(fixture, "b", "ROOT/mapped/4/lazy");
    assert_int_equal(try_commit(snapshots, "B", "b", "", &fixture->labels), 0);
    assert_nothing_mapped(fixture);
    /* With one of both, containerd maps nothing. */
    labels_set(&fixture->labels, LABEL_GID_MAPPING, "", NULL);
    assert_int_equal(try_prepare(snapshots, "half", CHAIN_ID, &fixture->labels), 0);
    assert_nothing_mapped(fixture);
}

static void test_they_stay_and_come_back(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    assert_int_equal(try_prepare(snapshots, "a", "above", &fixture->labels), 0);
    snapshots_reopen(snapshots);
    assert_mapped(fixture);
    unmount(fixture, "mapped/3/lazy");
    unmount(fixture, "mapped/3/ordinary");
    assert_lowers(fixture, "a", LAYERS);
    assert_mapped(fixture);
    /* The image was mounted anew, and has another file. */
    assert_int_equal(umount2(fixture->image, MNT_DETACH), 0);
    make_image(fixture);
    char *path = format_text("%s/other", fixture->image);
    assert_int_equal(file_write_atomic(path, "", 0, 0644, NULL), 0);
    free(path);
    for (int i = 0; i < 2; i++)
        assert_lowers(fixture, "a", LAYERS);
    assert_mapped(fixture);
    assert_owner(fixture, "mapped/3/lazy/other", 100000, 200000);
    unmount(fixture, "mapped/3/lazy"); /* there is one mount */
}

static void test_leftovers_go(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    char *mapped = format_text("%s/mapped/77", snapshots->root);
    char *point = format_text("%s/lazy", mapped);
    assert_int_equal(mkdir(mapped, 0700), 0);
    assert_int_equal(mkdir(point, 0700), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mount(fixture->image, point, NULL, MS_BIND, NULL), 0);
    snapshots_reopen(snapshots);
    assert_nothing_mapped(fixture);
    assert_int_equal(access(fixture->image, F_OK), 0);
    char *file = format_text("%s/file", fixture->image);
    assert_int_equal(access(file, F_OK), 0);
    free(file);
    free(mapped);
    free(point);
}

static void test_what_cannot_be_mapped(void **state)
{
    struct fixture *fixture = *state;
    struct snapshots *snapshots = &fixture->snapshots;
    if (!may_mount) skip();
    struct lazy_source source = lazy_always("/proc/self");
    snapshots->options.lazy = &source;
    snapshots_reopen(snapshots);
    assert_int_equal(try_prepare(snapshots, "a", "above", &fixture->labels), ERROR_UNSUPPORTED);
    assert_int_equal(try_stat(snapshots, "a"), ERROR_NOT_FOUND);
    assert_nothing_mapped(fixture);
    snapshots->options.lazy = &fixture->source;
    snapshots_reopen(snapshots);
    /* Two ranges of the host that overlap. */
    labels_set(&fixture->labels, LABEL_GID_MAPPING, "0:5:10,10:5:10", NULL);
    assert_int_equal(try_prepare(snapshots, "a", "above", &fixture->labels), ERROR_INVALID);
    assert_int_equal(try_stat(snapshots, "a"), ERROR_NOT_FOUND);
    assert_nothing_mapped(fixture);
}

static void test_lines_for_the_kernel(void **state)
{
    (void)state;
    char *lines = id_mapping_lines("0:100000:1000,1000:4294967294:0001", NULL);
    assert_string_equal(lines, "0 100000 1000\n1000 4294967294 1\n");
    free(lines);
    struct error *error = NULL;
    assert_null(id_mapping_lines("0:1:2,3:4", &error));
    assert_int_equal(kind_and_free(-1, error), ERROR_INVALID);
}

#define MAPPED_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    may_mount = snapshots_mount_alone();
    const struct CMUnitTest tests[] = {
        MAPPED_TEST(test_owners_are_mapped),
        MAPPED_TEST(test_they_stay_and_come_back),
        MAPPED_TEST(test_leftovers_go),
        MAPPED_TEST(test_what_cannot_be_mapped),
        cmocka_unit_test(test_lines_for_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
