/* Snapshots, method by method: what each is documented to do, and what it refuses. */
#include "tests/unit/snapshot_fixture.h"

#include <pthread.h>
#include <stdio.h>

static bool same_time(struct timespec left, struct timespec right)
{
    return left.tv_sec == right.tv_sec && left.tv_nsec == right.tv_nsec;
}

static void assert_info(struct snapshots *snapshots, const char *name, enum snapshot_kind kind,
                        const char *parent)
{
    struct snapshot_info info = stat_of(snapshots, name);
    assert_string_equal(info.name, name);
    assert_string_equal(info.parent, parent);
    assert_int_equal(info.kind, kind);
    assert_true(same_time(info.created, info.updated));
    snapshot_info_free(&info);
}

static void test_life_of_a_layer(void **state)
{
    struct snapshots *snapshots = *state;
    struct labels labels = labels_of("a=1", "b=2", NULL);
    assert_int_equal(try_prepare(snapshots, "work", "", &labels), 0);
    assert_info(snapshots, "work", SNAPSHOT_ACTIVE, "");
    struct labels others = labels_of("c=3", NULL);
    assert_int_equal(try_commit(snapshots, "layer", "work", "", &others), 0);
    assert_info(snapshots, "layer", SNAPSHOT_COMMITTED, "");
    assert_int_equal(try_stat(snapshots, "work"), ERROR_NOT_FOUND);
    struct snapshot_info info = stat_of(snapshots, "layer");
    assert_int_equal(info.labels.count, 1);
    assert_string_equal(labels_get(&info.labels, "c"), "3");
    snapshot_info_free(&info);
    assert_int_equal(try_view(snapshots, "view", "layer"), 0);
    assert_info(snapshots, "view", SNAPSHOT_VIEW, "layer");
    labels_free(&labels);
    labels_free(&others);
}

static void test_refusals_of_making(void **state)
{
    struct snapshots *snapshots = *state;
    commit_layer(snapshots, "layer", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "layer", &no_labels), 0);
    assert_int_equal(try_prepare(snapshots, "a", "layer", &no_labels), ERROR_EXISTS);
    assert_int_equal(try_prepare(snapshots, "layer", "", &no_labels), ERROR_EXISTS);
    assert_int_equal(try_view(snapshots, "a", ""), ERROR_EXISTS);
    assert_int_equal(try_prepare(snapshots, "b", "nothing", &no_labels), ERROR_NOT_FOUND);
    assert_int_equal(try_prepare(snapshots, "b", "a", &no_labels), ERROR_INVALID);
    assert_int_equal(try_prepare(snapshots, "", "", &no_labels), ERROR_INVALID);
    char *name = calloc(1, 32768 + 2);
    memset(name, 'n', 32768 + 1);
    assert_int_equal(try_prepare(snapshots, name, "", &no_labels), ERROR_INVALID);
    name[32768] = 0;
    assert_int_equal(try_prepare(snapshots, name, "", &no_labels), 0);
    free(name);
}

static void test_refusals_of_committing(void **state)
{
    struct snapshots *snapshots = *state;
    commit_layer(snapshots, "one", "", &no_labels);
    commit_layer(snapshots, "two", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "one", &no_labels), 0);
    assert_int_equal(try_view(snapshots, "v", "one"), 0);
    assert_int_equal(try_commit(snapshots, "x", "nothing", "", &no_labels), ERROR_NOT_FOUND);
    assert_int_equal(try_commit(snapshots, "one", "a", "", &no_labels), ERROR_EXISTS);
    assert_int_equal(try_commit(snapshots, "a", "a", "", &no_labels), ERROR_EXISTS);
    assert_int_equal(try_commit(snapshots, "x", "v", "", &no_labels), ERROR_PRECONDITION);
    assert_int_equal(try_commit(snapshots, "x", "two", "", &no_labels), ERROR_PRECONDITION);
    assert_int_equal(try_commit(snapshots, "x", "a", "two", &no_labels), ERROR_INVALID);
    assert_int_equal(try_commit(snapshots, "", "a", "", &no_labels), ERROR_INVALID);
    assert_info(snapshots, "a", SNAPSHOT_ACTIVE, "one");
    assert_int_equal(try_commit(snapshots, "x", "a", "one", &no_labels), 0);
    assert_info(snapshots, "x", SNAPSHOT_COMMITTED, "one");
}

/* Layers that are unpacked side by side get their parents when they are committed. */
static void test_late_parents(void **state)
{
    struct snapshots *snapshots = *state;
    assert_int_equal(try_prepare(snapshots, "first", "", &no_labels), 0);
    assert_int_equal(try_prepare(snapshots, "second", "", &no_labels), 0);
    assert_int_equal(try_commit(snapshots, "two", "second", "one", &no_labels), ERROR_NOT_FOUND);
    assert_int_equal(try_commit(snapshots, "two", "second", "first", &no_labels),
                     ERROR_PRECONDITION);
    assert_int_equal(try_commit(snapshots, "one", "first", "", &no_labels), 0);
    assert_int_equal(try_commit(snapshots, "two", "second", "one", &no_labels), 0);
    assert_info(snapshots, "two", SNAPSHOT_COMMITTED, "one");
    assert_int_equal(try_remove(snapshots, "one"), ERROR_PRECONDITION);
}

static void test_removal(void **state)
{
    struct snapshots *snapshots = *state;
    struct error *error = NULL;
    commit_layer(snapshots, "layer", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "layer", &no_labels), 0);
    assert_int_equal(snapshotter_remove(snapshots->snapshotter, "layer", &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_PRECONDITION);
    assert_non_null(strstr(error_message(error), "remove"));
    error_free(error);
    assert_int_equal(try_remove(snapshots, "nothing"), ERROR_NOT_FOUND);
    assert_int_equal(try_remove(snapshots, "a"), 0);
    assert_int_equal(try_remove(snapshots, "a"), ERROR_NOT_FOUND);
    assert_int_equal(try_view(snapshots, "a", "layer"), 0);
    assert_int_equal(try_remove(snapshots, "a"), 0);
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
    assert_int_equal(try_remove(snapshots, "layer"), 0);
    assert_int_equal(try_commit(snapshots, "layer", "a", "", &no_labels), 0);
}

/* A file system tree that no path reaches the end of, as a container may leave it. */
static void make_deep(const char *top, int depth)
{
    int directory = open(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < depth; i++) {
        assert_int_equal(mkdirat(directory, "a-directory", 0700), 0);
        int file = openat(directory, "file", O_CREAT | O_WRONLY, 0400);
        int next = openat(directory, "a-directory", O_RDONLY | O_DIRECTORY);
        close(file);
        close(directory);
        directory = next;
    }
    close(directory);
}

static void test_what_is_removed_leaves_the_disk(void **state)
{
    struct snapshots *snapshots = *state;
    for (int i = 0; i < 3; i++) {
        char key[8];
        snprintf(key, sizeof key, "a%d", i);
        assert_int_equal(try_prepare(snapshots, key, "", &no_labels), 0);
        char *upper = upper_of(snapshots, key);
        make_deep(upper, 3000);
        free(upper);
        assert_int_equal(try_remove(snapshots, key), 0);
    }
    assert_int_equal(count_directories(snapshots, false), 0);
    assert_int_equal(snapshotter_cleanup(snapshots->snapshotter, NULL), 0);
    assert_int_equal(count_directories(snapshots, true), 0);
}

static void test_leftovers_go_at_the_start_and_in_cleanup(void **state)
{
    struct snapshots *snapshots = *state;
    static const char *const names[] = { "snapshots/77", "snapshots/new-123", "snapshots/01",
                                         "snapshots/removed-0" };
    commit_layer(snapshots, "layer", "", &no_labels);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char *path = format_text("%s/%s/fs/a/b", snapshots->root, names[i]);
            assert_int_equal(directory_make(path, 0700, NULL), 0);
            free(path);
        }
        if (round == 0) snapshots_reopen(snapshots);
        assert_int_equal(snapshotter_cleanup(snapshots->snapshotter, NULL), 0);
        assert_int_equal(count_directories(snapshots, false), 1);
        assert_int_equal(count_directories(snapshots, true), 0);
    }
    /* In the place where the next one comes. */
    char *path = format_text("%s/snapshots/2/fs/old", snapshots->root);
    assert_int_equal(directory_make(path, 0700, NULL), 0);
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
    assert_int_equal(access(path, F_OK), -1);
    free(path);
}

static void test_update(void **state)
{
    struct snapshots *snapshots = *state;
    struct snapshot_info ret = { 0 };
    commit_layer(snapshots, "layer", "", &no_labels);
    struct snapshot_info info = stat_of(snapshots, "layer");
    struct timespec created = info.created;

    /* Without field paths: all labels, and nothing else. */
    free(info.parent);
    info.parent = strdup("nothing");
    info.labels = labels_of("l1=v1", "l2=v2", "l3=v3", NULL);
    assert_int_equal(snapshotter_update(snapshots->snapshotter, &info, NULL, 0, &ret, NULL), 0);
    assert_string_equal(ret.parent, "");
    assert_true(same_time(ret.created, created));
    assert_false(same_time(ret.updated, created));
    assert_int_equal(ret.labels.count, 3);
    snapshot_info_free(&ret);

    /* What they name: changed, and taken away. */
    labels_free(&info.labels);
    info.labels = labels_of("l1=new", "l4=v4", NULL);
    const char *const some[] = { "labels.l1", "labels.l2" };
    assert_int_equal(snapshotter_update(snapshots->snapshotter, &info, some, 2, &ret, NULL), 0);
    assert_int_equal(ret.labels.count, 2);
    assert_string_equal(labels_get(&ret.labels, "l1"), "new");
    assert_string_equal(labels_get(&ret.labels, "l3"), "v3");
    snapshot_info_free(&ret);

    const char *const all[] = { "labels" };
    assert_int_equal(snapshotter_update(snapshots->snapshotter, &info, all, 1, &ret, NULL), 0);
    assert_int_equal(ret.labels.count, 2);
    assert_string_equal(labels_get(&ret.labels, "l4"), "v4");
    snapshot_info_free(&ret);

    struct error *error = NULL;
    const char *const wrong[] = { "labels.l1", "parent" };
    int result = snapshotter_update(snapshots->snapshotter, &info, wrong, 2, &ret, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_INVALID);
    error = NULL;
    free(info.name);
    info.name = strdup("nothing");
    result = snapshotter_update(snapshots->snapshotter, &info, NULL, 0, &ret, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_NOT_FOUND);
    snapshot_info_free(&info);
}

static struct snapshot_usage usage_of(struct snapshots *snapshots, const char *key)
{
    struct snapshot_usage usage = { 0 };
    assert_int_equal(snapshotter_usage(snapshots->snapshotter, key, &usage, NULL), 0);
    return usage;
}

static void test_usage(void **state)
{
    struct snapshots *snapshots = *state;
    struct error *error = NULL;
    struct snapshot_usage usage;
    static char data[100000];
    assert_int_equal(snapshotter_usage(snapshots->snapshotter, "nothing", &usage, &error), -1);
    assert_int_equal(kind_and_free(-1, error), ERROR_NOT_FOUND);

    memset(data, 'd', sizeof data - 1);
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
    assert_int_equal(usage_of(snapshots, "a").inodes, 1);
    write_in(snapshots, "a", "file", data);
    char *upper = upper_of(snapshots, "a"), *file = format_text("%s/file", upper),
         *link_path = format_text("%s/directory/link", upper);
    *strrchr(link_path, '/') = 0;
    assert_int_equal(mkdir(link_path, 0700), 0);
    link_path[strlen(link_path)] = '/';
    assert_int_equal(link(file, link_path), 0);
    usage = usage_of(snapshots, "a");
    assert_int_equal(usage.inodes, 3);
    assert_in_range(usage.size, sizeof data, 2 * sizeof data);

    /* What is committed is not counted again. */
    assert_int_equal(try_commit(snapshots, "layer", "a", "", &no_labels), 0);
    assert_int_equal(unlink(link_path), 0);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(usage_of(snapshots, "layer").size, usage.size);
    assert_int_equal(usage_of(snapshots, "layer").inodes, 3);
    assert_int_equal(try_prepare(snapshots, "b", "layer", &no_labels), 0);
    assert_int_equal(usage_of(snapshots, "b").inodes, 1);
    free(link_path);
    free(file);
    free(upper);
}

static void test_mounts(void **state)
{
    struct snapshots *snapshots = *state;
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
    assert_mounts(snapshots, "a", "bind ROOT/snapshots/1/fs rw,rbind");
    assert_int_equal(try_view(snapshots, "v", ""), 0);
    assert_mounts(snapshots, "v", "bind ROOT/snapshots/2/fs ro,rbind");
    assert_int_equal(try_commit(snapshots, "one", "a", "", &no_labels), 0);
    assert_int_equal(try_view(snapshots, "v1", "one"), 0);
    assert_mounts(snapshots, "v1", "bind ROOT/snapshots/1/fs ro,rbind");
    assert_int_equal(try_prepare(snapshots, "b", "one", &no_labels), 0);
    assert_mounts(snapshots, "b",
                  "overlay overlay workdir=ROOT/snapshots/4/work,upperdir=ROOT/snapshots/4/fs,"
                  "lowerdir=ROOT/snapshots/1/fs");
    assert_int_equal(try_commit(snapshots, "two", "b", "", &no_labels), 0);
    assert_int_equal(try_view(snapshots, "v2", "two"), 0);
    assert_mounts(snapshots, "v2",
                  "overlay overlay lowerdir=ROOT/snapshots/4/fs:ROOT/snapshots/1/fs");
    assert_int_equal(snapshotter_mounts(snapshots->snapshotter, "two", &mounts, &error), -1);
    assert_int_equal(kind_and_free(-1, error), ERROR_PRECONDITION);
    error = NULL;
    assert_int_equal(snapshotter_mounts(snapshots->snapshotter, "nothing", &mounts, &error), -1);
    assert_int_equal(kind_and_free(-1, error), ERROR_NOT_FOUND);
}

static void test_options_of_overlay(void **state)
{
    struct snapshots *snapshots = *state;
    static const char *const options[] = { "volatile", "index=on" };
    snapshots->options.overlay_options = options;
    snapshots->options.overlay_option_count = 2;
    snapshots_reopen(snapshots);
    commit_layer(snapshots, "one", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "one", &no_labels), 0);
    assert_mounts(snapshots, "a",
                  "overlay overlay workdir=ROOT/snapshots/2/work,upperdir=ROOT/snapshots/2/fs,"
                  "lowerdir=ROOT/snapshots/1/fs,volatile,index=on");
}

static void test_user_namespaces(void **state)
{
    struct snapshots *snapshots = *state;
    if (geteuid() != 0) skip();
    struct stat found;
    struct labels labels =
        labels_of("containerd.io/snapshot/uidmapping=0:100000:65536",
                  "containerd.io/snapshot/gidmapping=5:7:1,0:200000:65536", NULL);
    commit_layer(snapshots, "one", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "one", &labels), 0);
    char *upper = upper_of(snapshots, "a");
    assert_int_equal(stat(upper, &found), 0);
    assert_int_equal(found.st_uid, 100000);
    assert_int_equal(found.st_gid, 200000);
    free(upper);
    assert_mounts(snapshots, "a",
                  "overlay overlay workdir=ROOT/snapshots/2/work,upperdir=ROOT/snapshots/2/fs,"
                  "lowerdir=ROOT/snapshots/1/fs");
    snapshots->options.remap_ids = true;
    snapshots_reopen(snapshots);
    assert_mounts(snapshots, "a",
                  "overlay overlay uidmap=0:100000:65536,gidmap=5:7:1,0:200000:65536,"
                  "workdir=ROOT/snapshots/2/work,upperdir=ROOT/snapshots/2/fs,"
                  "lowerdir=ROOT/snapshots/1/fs");
    labels_free(&labels);
    static const char *const wrong[] = { "0:1",   "1:2:3",  "0:-1:5",  "0:4294967295:1", "0:1:2x",
                                         "0:1:0", " 0:1:2", "0:1:2,,", "99999999999:1:1" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        labels = (struct labels){ 0 };
        labels_set(&labels, LABEL_UID_MAPPING, wrong[i], NULL);
        assert_int_equal(try_prepare(snapshots, "b", "one", &labels), ERROR_INVALID);
        labels_free(&labels);
    }
    assert_int_equal(try_stat(snapshots, "b"), ERROR_NOT_FOUND);
}

/* Where containers run, the root directory is what the image says. */
static void test_root_directory_has_the_owner_of_the_one_below(void **state)
{
    struct snapshots *snapshots = *state;
    struct stat found;
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
    char *upper = upper_of(snapshots, "a");
    assert_int_equal(stat(upper, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0755);
    assert_int_equal(chmod(upper, 01711), 0);
    if (geteuid() == 0) assert_int_equal(chown(upper, 12, 34), 0);
    free(upper);
    assert_int_equal(try_commit(snapshots, "one", "a", "", &no_labels), 0);
    assert_int_equal(try_prepare(snapshots, "b", "one", &no_labels), 0);
    upper = upper_of(snapshots, "b");
    assert_int_equal(stat(upper, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0755);
    if (geteuid() == 0) {
        assert_int_equal(found.st_uid, 12);
        assert_int_equal(found.st_gid, 34);
    }
    free(upper);
}

static void test_names_are_any_bytes(void **state)
{
    struct snapshots *snapshots = *state;
    static const char *const names[] = { "k8s.io/12/sha256:ab", "../../etc",    "a'b\"c;--%s",
                                         "\xff\xfe\x01\n",      "na\xc3\xafve", " " };
    size_t count = sizeof names / sizeof *names;
    for (size_t i = 0; i < count; i++) {
        struct labels labels = { 0 };
        assert_int_equal(labels_set(&labels, names[i], names[count - 1 - i], NULL), 0);
        assert_int_equal(try_prepare(snapshots, "work", i ? names[i - 1] : "", &labels), 0);
        assert_int_equal(try_commit(snapshots, names[i], "work", "", &labels), 0);
        labels_free(&labels);
    }
    snapshots_reopen(snapshots);
    for (size_t i = 0; i < count; i++) {
        struct snapshot_info info = stat_of(snapshots, names[i]);
        assert_string_equal(info.name, names[i]);
        assert_string_equal(info.parent, i ? names[i - 1] : "");
        assert_string_equal(labels_get(&info.labels, names[i]), names[count - 1 - i]);
        snapshot_info_free(&info);
    }
}

static void test_labels(void **state)
{
    struct snapshots *snapshots = *state;
    struct labels labels = labels_of("keep=1", NULL);
    assert_int_equal(labels_set(&labels, "gone", "2", NULL), 0);
    assert_int_equal(labels_set(&labels, "gone", "", NULL), 0);
    assert_int_equal(labels_set(&labels, "keep", "3", NULL), 0);
    assert_int_equal(labels.count, 1);
    struct error *error = NULL;
    int result = labels_set(&labels, "", "1", &error);
    assert_int_equal(kind_and_free(result, error), ERROR_INVALID);
    for (int i = 1; i < LABELS_MAX; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", (i * 7919) % LABELS_MAX);
        assert_int_equal(labels_set(&labels, key, key, NULL), 0);
    }
    error = NULL;
    result = labels_set(&labels, "more", "1", &error);
    assert_int_equal(kind_and_free(result, error), ERROR_INVALID);
    assert_int_equal(try_prepare(snapshots, "a", "", &labels), 0);
    struct snapshot_info info = stat_of(snapshots, "a");
    assert_int_equal(info.labels.count, labels.count);
    for (size_t i = 0; i < labels.count; i++)
        assert_string_equal(labels_get(&info.labels, labels.entries[i].key),
                            labels.entries[i].value);
    snapshot_info_free(&info);
    labels_free(&labels);
}

static int stop_at_three(void *context, const struct snapshot_info *info, struct error **error)
{
    (void)info;
    return ++*(int *)context == 3 ? error_set(error, ERROR_CANCELLED, "enough") : 0;
}

/* As containerd's garbage collection may do it. */
static int remove_it(void *context, const struct snapshot_info *info, struct error **error)
{
    return snapshotter_remove(context, info->name, error);
}

static void test_list(void **state)
{
    struct snapshots *snapshots = *state;
    for (int i = 0; i < 200; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(try_prepare(snapshots, key, "", &no_labels), 0);
    }
    int count = 0;
    assert_int_equal(snapshotter_list(snapshots->snapshotter, NULL, 0, count_one, &count, NULL), 0);
    assert_int_equal(count, 200);
    const char *const filters[] = { "name==key-7", "name~=^key-1..$" };
    count = 0;
    assert_int_equal(snapshotter_list(snapshots->snapshotter, filters, 2, count_one, &count, NULL),
                     0);
    assert_int_equal(count, 101);
    count = 0;
    struct error *error = NULL;
    int result = snapshotter_list(snapshots->snapshotter, NULL, 0, stop_at_three, &count, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_CANCELLED);
    assert_int_equal(count, 3);
    const char *const wrong[] = { "name==" };
    error = NULL;
    result = snapshotter_list(snapshots->snapshotter, wrong, 1, count_one, &count, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_INVALID);
    assert_int_equal(
        snapshotter_list(snapshots->snapshotter, NULL, 0, remove_it, snapshots->snapshotter, NULL),
        0);
    count = 0;
    assert_int_equal(snapshotter_list(snapshots->snapshotter, NULL, 0, count_one, &count, NULL), 0);
    assert_int_equal(count, 0);
}

static void test_state_survives(void **state)
{
    struct snapshots *snapshots = *state;
    commit_layer(snapshots, "one", "", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "one", &no_labels), 0);
    char *before = describe_mounts(snapshots, "a");
    snapshots_reopen(snapshots);
    char *after = describe_mounts(snapshots, "a");
    assert_string_equal(before, after);
    assert_info(snapshots, "one", SNAPSHOT_COMMITTED, "");
    free(before);
    free(after);
    /* An id is never used again, also not after a removal and a restart. */
    assert_int_equal(try_remove(snapshots, "a"), 0);
    snapshots_reopen(snapshots);
    assert_int_equal(try_prepare(snapshots, "b", "", &no_labels), 0);
    assert_mounts(snapshots, "b", "bind ROOT/snapshots/3/fs rw,rbind");
}

static void test_roots_that_overlayfs_cannot_have(void **state)
{
    struct snapshots *snapshots = *state;
    static const char *const roots[] = { "relative", "/tmp/a,b", "/tmp/a:b", "/tmp/a\\b" };
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        struct error *error = NULL;
        struct snapshotter *other = NULL;
        const struct snapshotter_options options = { .root = roots[i] };
        int result = snapshotter_open(&other, &options, &error);
        assert_int_equal(kind_and_free(result, error), ERROR_INVALID);
    }
    assert_non_null(snapshots);
}

#define THREADS 8
#define ROUNDS  25

struct worker {
    pthread_t thread;
    struct snapshots *snapshots;
    int number;
};

/* Each has names of its own, and one name is everybody's. */
static void *work(void *argument)
{
    struct worker *worker = argument;
    for (int i = 0; i < ROUNDS; i++) {
        char key[32], name[32];
        snprintf(key, sizeof key, "key %d %d", worker->number, i);
        snprintf(name, sizeof name, "name %d %d", worker->number, i);
        if (try_prepare(worker->snapshots, key, "base", &no_labels) != 0) abort();
        if (try_commit(worker->snapshots, name, key, "", &no_labels) != 0) abort();
        int common = try_prepare(worker->snapshots, "common", name, &no_labels);
        if (common != 0 && common != ERROR_EXISTS) abort();
        if (common == 0 && try_remove(worker->snapshots, "common") != 0) abort();
        int removed = try_remove(worker->snapshots, name);
        if (removed != 0) abort();
        if (i % 8 == 0) snapshotter_cleanup(worker->snapshots->snapshotter, NULL);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct snapshots *snapshots = *state;
    struct worker workers[THREADS];
    commit_layer(snapshots, "base", "", &no_labels);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ .snapshots = snapshots, .number = i };
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    int count = 0;
    assert_int_equal(snapshotter_list(snapshots->snapshotter, NULL, 0, count_one, &count, NULL), 0);
    assert_int_equal(count, 1);
    assert_int_equal(snapshotter_cleanup(snapshots->snapshotter, NULL), 0);
    assert_int_equal(count_directories(snapshots, false), 1);
    assert_int_equal(count_directories(snapshots, true), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SNAPSHOT_TEST(test_life_of_a_layer),
        SNAPSHOT_TEST(test_refusals_of_making),
        SNAPSHOT_TEST(test_refusals_of_committing),
        SNAPSHOT_TEST(test_late_parents),
        SNAPSHOT_TEST(test_removal),
        SNAPSHOT_TEST(test_what_is_removed_leaves_the_disk),
        SNAPSHOT_TEST(test_leftovers_go_at_the_start_and_in_cleanup),
        SNAPSHOT_TEST(test_update),
        SNAPSHOT_TEST(test_usage),
        SNAPSHOT_TEST(test_mounts),
        SNAPSHOT_TEST(test_options_of_overlay),
        SNAPSHOT_TEST(test_user_namespaces),
        SNAPSHOT_TEST(test_root_directory_has_the_owner_of_the_one_below),
        SNAPSHOT_TEST(test_names_are_any_bytes),
        SNAPSHOT_TEST(test_labels),
        SNAPSHOT_TEST(test_list),
        SNAPSHOT_TEST(test_state_survives),
        SNAPSHOT_TEST(test_roots_that_overlayfs_cannot_have),
        SNAPSHOT_TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
