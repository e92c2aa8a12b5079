/* The state directory: files that are damaged or not ours, a disk that is full, two daemons, and
 * many snapshots. */
#include "tests/unit/snapshot_fixture.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

static char *database_path(const struct snapshots *snapshots)
{
    return format_text("%s/metadata.db", snapshots->root);
}

/* The kind and the message of what opening fails with. */
static int try_open(struct snapshots *snapshots, char *message, size_t room)
{
    struct error *error = NULL;
    int result = snapshotter_open(&snapshots->snapshotter, &snapshots->options, &error);
    snprintf(message, room, "%s", result < 0 ? error_message(error) : "");
    if (result == 0) snapshots_close(snapshots);
    return kind_and_free(result, error);
}

static void assert_refused(struct snapshots *snapshots, const char *why)
{
    char message[1000];
    assert_int_not_equal(try_open(snapshots, message, sizeof message), 0);
    if (!strstr(message, why)) fail_msg("'%s' does not say '%s'", message, why);
    assert_non_null(strstr(message, "metadata.db"));
    assert_null(strchr(message, '\n'));
}

static void write_database(struct snapshots *snapshots, const void *data, size_t length)
{
    char *path = database_path(snapshots);
    assert_int_equal(file_write_atomic(path, data, length, 0600, NULL), 0);
    free(path);
}

static struct buffer read_database(struct snapshots *snapshots)
{
    struct buffer bytes = { 0 };
    char *path = database_path(snapshots);
    assert_int_equal(file_read(path, 100 << 20, &bytes, NULL), 0);
    free(path);
    return bytes;
}

/* Something in it, and all of it in the one file. */
static void fill_and_close(struct snapshots *snapshots)
{
    struct labels labels = labels_of("a=1", "b=2", NULL);
    commit_layer(snapshots, "one", "", &labels);
    commit_layer(snapshots, "two", "one", &labels);
    assert_int_equal(try_prepare(snapshots, "active", "two", &labels), 0);
    labels_free(&labels);
    snapshots_close(snapshots);
}

static void change_by_hand(struct snapshots *snapshots, const char *sql)
{
    sqlite3 *connection;
    char *path = database_path(snapshots);
    assert_int_equal(sqlite3_open(path, &connection), SQLITE_OK);
    assert_int_equal(sqlite3_exec(connection, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(connection);
    free(path);
}

static void test_files_that_are_not_ours(void **state)
{
    struct snapshots *snapshots = *state;
    fill_and_close(snapshots);
    static char noise[20000];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)(i * 31 + 7);
    write_database(snapshots, noise, sizeof noise);
    assert_refused(snapshots, "is damaged");
    write_database(snapshots, "", 0);
    change_by_hand(snapshots, "CREATE TABLE theirs (x)");
    assert_refused(snapshots, "not one of sluiced's");

    char *path = database_path(snapshots);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_refused(snapshots, "metadata.db");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(snapshots, "metadata.db");
    free(path);
}

/* What containers have written is not removed because nothing tells of it. */
static void test_a_database_that_is_gone(void **state)
{
    struct snapshots *snapshots = *state;
    char *path = database_path(snapshots), *moved = format_text("%s.moved", path);
    char *kept = format_text("%s/snapshots/1/fs", snapshots->root);
    fill_and_close(snapshots);
    assert_int_equal(rename(path, moved), 0);
    assert_refused(snapshots, "has snapshots, but there is no");
    assert_int_equal(access(kept, F_OK), 0);
    assert_int_equal(rename(moved, path), 0);
    snapshots_open(snapshots);
    assert_int_equal(access(kept, F_OK), 0);
    free(kept);
    free(moved);
    free(path);
}

static void test_another_version(void **state)
{
    struct snapshots *snapshots = *state;
    fill_and_close(snapshots);
    change_by_hand(snapshots, "PRAGMA user_version = 2");
    assert_refused(snapshots, "version 2");
}

/* What would run, or be shown, without our asking. */
static void test_tables_that_somebody_changed(void **state)
{
    struct snapshots *snapshots = *state;
    fill_and_close(snapshots);
    struct buffer good = read_database(snapshots);
    static const char *const changes[] = {
        "CREATE TRIGGER t AFTER INSERT ON labels BEGIN DELETE FROM labels; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE more (x)",
        "DROP INDEX snapshots_by_parent",
        "ALTER TABLE snapshots ADD COLUMN x INTEGER",
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        write_database(snapshots, good.data, good.length);
        change_by_hand(snapshots, changes[i]);
        assert_refused(snapshots, "tables");
    }
    write_database(snapshots, good.data, good.length);
    change_by_hand(snapshots,
                   "PRAGMA foreign_keys = OFF; UPDATE snapshots SET parent = 77 WHERE id = 2");
    assert_refused(snapshots, "refers to");
    write_database(snapshots, good.data, good.length);
    change_by_hand(snapshots,
                   "PRAGMA ignore_check_constraints = ON; UPDATE snapshots SET kind = 9");
    assert_refused(snapshots, "is damaged");
    buffer_free(&good);
}

static int ignore(void *context, const struct snapshot_info *info, struct error **error)
{
    (void)context, (void)info, (void)error;
    return 0;
}

/* What no check at the start sees is an error where it is met, and nothing worse. */
static void test_rows_that_cannot_be(void **state)
{
    struct snapshots *snapshots = *state;
    fill_and_close(snapshots);
    change_by_hand(snapshots, "UPDATE snapshots SET parent = 2 WHERE id = 1");
    snapshots_open(snapshots);
    assert_int_equal(try_prepare(snapshots, "new", "two", &no_labels), ERROR_SYSTEM);
    assert_int_equal(try_stat(snapshots, "two"), 0);
    snapshots_close(snapshots);
    change_by_hand(snapshots, "UPDATE snapshots SET parent = NULL WHERE id = 1;"
                              "UPDATE snapshots SET name = CAST(x'610062' AS TEXT) WHERE id = 3;"
                              "UPDATE labels SET value = CAST(x'ff00' AS TEXT) WHERE snapshot = 1");
    snapshots_open(snapshots);
    assert_int_equal(try_stat(snapshots, "one"), ERROR_SYSTEM);
    assert_int_equal(try_stat(snapshots, "two"), 0);
    struct error *error = NULL;
    int result = snapshotter_list(snapshots->snapshotter, NULL, 0, ignore, NULL, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_SYSTEM);
}

/* Every method, whatever they answer. */
static void use_all(struct snapshots *snapshots)
{
    static const char *const names[] = { "one", "two", "active", "new", "next" };
    struct error *error = NULL;
    if (snapshotter_list(snapshots->snapshotter, NULL, 0, ignore, NULL, &error) < 0)
        error_free(error);
    try_prepare(snapshots, "new", "two", &no_labels);
    try_commit(snapshots, "next", "active", "", &no_labels);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct mount_list mounts = { 0 };
        error = NULL;
        if (snapshotter_mounts(snapshots->snapshotter, names[i], &mounts, &error) < 0)
            error_free(error);
        mount_list_free(&mounts);
        try_stat(snapshots, names[i]);
        try_remove(snapshots, names[i]);
    }
    error = NULL;
    if (snapshotter_cleanup(snapshots->snapshotter, &error) < 0) error_free(error);
}

static void test_damaged_files(void **state)
{
    struct snapshots *snapshots = *state;
    fill_and_close(snapshots);
    struct buffer good = read_database(snapshots);
    unsigned random = 1, opened = 0;
    for (int round = 0; round < 100; round++) {
        struct buffer bad = { 0 };
        buffer_append(&bad, good.data, good.length);
        if (round % 10 == 0)
            bad.length = (size_t)round * good.length / 100;
        else
            for (int i = 0; i <= round % 7; i++) {
                random = random * 1103515245 + 12345;
                bad.data[(random >> 8) % bad.length] = (uint8_t)(random >> 20);
            }
        write_database(snapshots, bad.data, bad.length);
        buffer_free(&bad);
        if (snapshotter_open(&snapshots->snapshotter, &snapshots->options, NULL) < 0) continue;
        opened++;
        use_all(snapshots);
        snapshots_close(snapshots);
    }
    assert_in_range(opened, 1, 99);
    buffer_free(&good);
}

static void test_one_daemon_at_a_time(void **state)
{
    struct snapshots *snapshots = *state;
    char message[1000];
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct snapshots other = { .root = snapshots->root, .options = snapshots->options };
        int kind = try_open(&other, message, sizeof message);
        _exit(kind == ERROR_PRECONDITION && strstr(message, "another process") ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(try_prepare(snapshots, "a", "", &no_labels), 0);
}

/* Takes all that the disk has. */
static void fill_disk(const char *path)
{
    static char data[65536];
    int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    for (size_t size = sizeof data; size; size /= 2)
        while (write(file, data, size) > 0)
            ;
    close(file);
}

static int disk_set_up(void **state)
{
    struct snapshots *snapshots = calloc(1, sizeof *snapshots);
    snapshots->directory = temporary_directory_make();
    snapshots->root = format_text("%s/disk/state", snapshots->directory);
    snapshots->options.root = snapshots->root;
    *state = snapshots;
    char *disk = format_text("%s/disk", snapshots->directory);
    assert_int_equal(mkdir(disk, 0700), 0);
    int mounted = mount("tmpfs", disk, "tmpfs", 0, "size=2m");
    free(disk);
    if (mounted == 0) snapshots_open(snapshots);
    return 0;
}

static int disk_tear_down(void **state)
{
    struct snapshots *snapshots = *state;
    char *disk = format_text("%s/disk", snapshots->directory);
    snapshots_close(snapshots);
    umount2(disk, MNT_DETACH);
    free(disk);
    return snapshots_tear_down(state);
}

/* What fails has done nothing, and what was there stays and can be removed. */
static void test_full_disk(void **state)
{
    struct snapshots *snapshots = *state;
    if (!snapshots->snapshotter) skip();
    commit_layer(snapshots, "one", "", &no_labels);
    char *filler = format_text("%s/disk/filler", snapshots->directory);
    fill_disk(filler);
    struct labels labels = { 0 };
    static char text[4000];
    memset(text, 't', sizeof text - 1);
    for (int i = 0; i < 20; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(labels_set(&labels, key, text, NULL), 0);
    }
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    int failures = 0;
    for (int i = 0; i < 50; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%d", i);
        error = NULL;
        if (snapshotter_prepare(snapshots->snapshotter, key, "one", &labels, &mounts, &error) ==
            0) {
            mount_list_free(&mounts);
            continue;
        }
        failures++;
        assert_int_equal(error_errno(error), ENOSPC);
        error_free(error);
        assert_int_equal(try_stat(snapshots, key), ERROR_NOT_FOUND);
    }
    assert_true(failures > 0);
    labels_free(&labels);
    assert_int_equal(try_stat(snapshots, "one"), 0);
    assert_int_equal(unlink(filler), 0);
    free(filler);
    snapshots_reopen(snapshots);
    int there = 0;
    for (int i = 0; i < 50; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%d", i);
        if (try_stat(snapshots, key) == 0) {
            there++;
            free(upper_of(snapshots, key));
            assert_int_equal(try_remove(snapshots, key), 0);
        }
    }
    assert_int_equal(there + failures, 50);
    assert_int_equal(try_remove(snapshots, "one"), 0);
    assert_int_equal(snapshotter_cleanup(snapshots->snapshotter, NULL), 0);
    assert_int_equal(try_prepare(snapshots, "again", "", &no_labels), 0);
}

#define MANY 10000

static double seconds_since(struct timespec begin)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9;
}

/* On a file system in memory: what is looked at is what grows with the count, not the disk. */
static void test_many(void **state)
{
    struct snapshots *snapshots = *state;
    if (!snapshots->snapshotter) skip();
    struct timespec begin;
    struct labels labels = labels_of(LABEL_SNAPSHOT_REF "=sha256:0", "more=label", NULL);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    char key[32], parent[32] = "";
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        if (i % 100 == 0) parent[0] = 0;
        assert_int_equal(try_prepare(snapshots, "work", parent, &labels), 0);
        assert_int_equal(try_commit(snapshots, key, "work", "", &labels), 0);
        snprintf(parent, sizeof parent, "%s", key);
    }
    print_message("%d layers: %.2f s; ", MANY, seconds_since(begin));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    int count = 0;
    const char *const filters[] = {
        "labels.\"containerd.io/snapshot.ref\"==sha256:0,parent==key-77"
    };
    assert_int_equal(snapshotter_list(snapshots->snapshotter, filters, 1, count_one, &count, NULL),
                     0);
    assert_int_equal(count, 1);
    print_message("a list: %.3f s; ", seconds_since(begin));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    snapshots_reopen(snapshots);
    print_message("a start: %.3f s; ", seconds_since(begin));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(try_prepare(snapshots, "work", "key-99", &labels), 0);
    print_message("one more: %.4f s; ", seconds_since(begin));
    struct mount_list mounts = mounts_of(snapshots, "work");
    size_t colons = 0;
    for (size_t i = 0; i < mounts.entries[0].option_count; i++)
        for (const char *c = mounts.entries[0].options[i]; *c; c++)
            colons += *c == ':';
    assert_int_equal(colons, 99);
    mount_list_free(&mounts);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(try_remove(snapshots, "work"), 0);
    for (int i = MANY; i--;) {
        snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(try_remove(snapshots, key), 0);
    }
    assert_int_equal(snapshotter_cleanup(snapshots->snapshotter, NULL), 0);
    print_message("all removed: %.2f s\n", seconds_since(begin));
    labels_free(&labels);
}

static int many_set_up(void **state)
{
    disk_set_up(state);
    struct snapshots *snapshots = *state;
    char *disk = format_text("%s/disk", snapshots->directory);
    if (snapshots->snapshotter)
        assert_int_equal(mount(NULL, disk, NULL, MS_REMOUNT, "size=512m,nr_inodes=200000"), 0);
    free(disk);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SNAPSHOT_TEST(test_files_that_are_not_ours),
        SNAPSHOT_TEST(test_a_database_that_is_gone),
        SNAPSHOT_TEST(test_another_version),
        SNAPSHOT_TEST(test_tables_that_somebody_changed),
        SNAPSHOT_TEST(test_rows_that_cannot_be),
        SNAPSHOT_TEST(test_damaged_files),
        SNAPSHOT_TEST(test_one_daemon_at_a_time),
        cmocka_unit_test_setup_teardown(test_full_disk, disk_set_up, disk_tear_down),
        cmocka_unit_test_setup_teardown(test_many, many_set_up, disk_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
