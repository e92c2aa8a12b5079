/* A snapshotter in a directory of its own, for one test. */
#ifndef SLUICE_TESTS_SNAPSHOT_FIXTURE_H
#define SLUICE_TESTS_SNAPSHOT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "snapshotter/snapshotter.h"
#include "tests/unit/temporary_directory.h"

struct snapshots {
    char *directory, *root;
    struct snapshotter_options options;
    struct snapshotter *snapshotter;
};

/* Whether tests may mount: we are root, and in a namespace now where nobody sees it. */
static inline bool snapshots_mount_alone(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
           mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
}

static inline void snapshots_open(struct snapshots *snapshots)
{
    struct error *error = NULL;
    if (snapshotter_open(&snapshots->snapshotter, &snapshots->options, &error) < 0)
        fail_msg("%s", error_message(error));
}

static inline void snapshots_close(struct snapshots *snapshots)
{
    snapshotter_free(snapshots->snapshotter);
    snapshots->snapshotter = NULL;
}

static inline void snapshots_reopen(struct snapshots *snapshots)
{
    snapshots_close(snapshots);
    snapshots_open(snapshots);
}

static inline int snapshots_set_up(void **state)
{
    struct snapshots *snapshots = calloc(1, sizeof *snapshots);
    snapshots->directory = temporary_directory_make();
    snapshots->root = format_text("%s/state", snapshots->directory);
    snapshots->options.root = snapshots->root;
    snapshots_open(snapshots);
    *state = snapshots;
    return 0;
}

static inline int snapshots_tear_down(void **state)
{
    struct snapshots *snapshots = *state;
    snapshots_close(snapshots);
    temporary_directory_remove(snapshots->directory);
    free(snapshots->root);
    free(snapshots);
    return 0;
}

#define SNAPSHOT_TEST(function) \
    cmocka_unit_test_setup_teardown(function, snapshots_set_up, snapshots_tear_down)

/* "key=value" texts up to NULL. */
static inline struct labels labels_of(const char *first, ...)
{
    struct labels labels = { 0 };
    va_list rest;
    va_start(rest, first);
    for (const char *text = first; text; text = va_arg(rest, const char *)) {
        const char *equals = strchr(text, '=');
        char *key = strndup(text, (size_t)(equals - text));
        assert_int_equal(labels_set(&labels, key, equals + 1, NULL), 0);
        free(key);
    }
    va_end(rest);
    return labels;
}

static const struct labels no_labels;

/* The kind of the error that `call` fails with, 0 when it does not. */
static inline int kind_and_free(int result, struct error *error)
{
    int kind = result < 0 ? (int)error_kind_of(error) : 0;
    error_free(error);
    return kind;
}

static inline int try_prepare(struct snapshots *snapshots, const char *key, const char *parent,
                              const struct labels *labels)
{
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    int result = snapshotter_prepare(snapshots->snapshotter, key, parent, labels, &mounts, &error);
    mount_list_free(&mounts);
    return kind_and_free(result, error);
}

static inline int try_view(struct snapshots *snapshots, const char *key, const char *parent)
{
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    int result = snapshotter_view(snapshots->snapshotter, key, parent, &no_labels, &mounts, &error);
    mount_list_free(&mounts);
    return kind_and_free(result, error);
}

static inline int try_commit(struct snapshots *snapshots, const char *name, const char *key,
                             const char *parent, const struct labels *labels)
{
    struct error *error = NULL;
    int result = snapshotter_commit(snapshots->snapshotter, name, key, parent, labels, &error);
    return kind_and_free(result, error);
}

static inline int try_remove(struct snapshots *snapshots, const char *key)
{
    struct error *error = NULL;
    int result = snapshotter_remove(snapshots->snapshotter, key, &error);
    return kind_and_free(result, error);
}

static inline int try_stat(struct snapshots *snapshots, const char *key)
{
    struct error *error = NULL;
    struct snapshot_info info = { 0 };
    int result = snapshotter_stat(snapshots->snapshotter, key, &info, &error);
    snapshot_info_free(&info);
    return kind_and_free(result, error);
}

static inline struct snapshot_info stat_of(struct snapshots *snapshots, const char *key)
{
    struct snapshot_info info = { 0 };
    assert_int_equal(snapshotter_stat(snapshots->snapshotter, key, &info, NULL), 0);
    return info;
}

static inline struct mount_list mounts_of(struct snapshots *snapshots, const char *key)
{
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    if (snapshotter_mounts(snapshots->snapshotter, key, &mounts, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_int_equal(mounts.count, 1);
    return mounts;
}

/* "TYPE SOURCE OPTION,OPTION...", with the state directory as "ROOT". */
static inline char *describe_mounts(struct snapshots *snapshots, const char *key)
{
    struct mount_list mounts = mounts_of(snapshots, key);
    const struct mount_entry *entry = &mounts.entries[0];
    char *text = format_text("%s %s", entry->type, entry->source);
    for (size_t i = 0; i < entry->option_count; i++) {
        char *longer = format_text("%s%s%s", text, i ? "," : " ", entry->options[i]);
        free(text);
        text = longer;
    }
    for (char *found; (found = strstr(text, snapshots->root));) {
        memcpy(found, "ROOT", 4);
        memmove(found + 4, found + strlen(snapshots->root),
                strlen(found + strlen(snapshots->root)) + 1);
    }
    mount_list_free(&mounts);
    return text;
}

/* As describe_mounts(), up to the options that depend on the kernel. */
static inline void assert_mounts(struct snapshots *snapshots, const char *key, const char *expected)
{
    char *text = describe_mounts(snapshots, key);
    char *end = strstr(text, ",index=off");
    if (end) *end = 0;
    assert_string_equal(text, expected);
    free(text);
}

/* The directory that an active snapshot's files are in. */
static inline char *upper_of(struct snapshots *snapshots, const char *key)
{
    struct mount_list mounts = mounts_of(snapshots, key);
    const struct mount_entry *entry = &mounts.entries[0];
    char *path = strcmp(entry->type, "bind") == 0 ? strdup(entry->source) : NULL;
    for (size_t i = 0; !path && i < entry->option_count; i++)
        if (strncmp(entry->options[i], "upperdir=", 9) == 0) path = strdup(entry->options[i] + 9);
    mount_list_free(&mounts);
    assert_non_null(path);
    return path;
}

static inline void write_in(struct snapshots *snapshots, const char *key, const char *name,
                            const char *text)
{
    char *upper = upper_of(snapshots, key), *path = format_text("%s/%s", upper, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
    free(path);
    free(upper);
}

/* A committed snapshot with one file. */
static inline void commit_layer(struct snapshots *snapshots, const char *name, const char *parent,
                                const struct labels *labels)
{
    char *key = format_text("extract %s", name);
    assert_int_equal(try_prepare(snapshots, key, parent, &no_labels), 0);
    write_in(snapshots, key, name, name);
    assert_int_equal(try_commit(snapshots, name, key, "", labels), 0);
    free(key);
}

/* For snapshotter_list(); its context is an int. */
static inline int count_one(void *context, const struct snapshot_info *info, struct error **error)
{
    (void)info, (void)error;
    ++*(int *)context;
    return 0;
}

/* Directories of snapshots; with `removed`, those that are to be taken apart instead. */
static inline int count_directories(const struct snapshots *snapshots, bool removed)
{
    char *path = format_text("%s/snapshots", snapshots->root);
    DIR *entries = opendir(path);
    const struct dirent *entry;
    int count = 0;
    assert_non_null(entries);
    while ((entry = readdir(entries)))
        if (*entry->d_name != '.' && (strncmp(entry->d_name, "removed-", 8) == 0) == removed)
            count++;
    closedir(entries);
    free(path);
    return count;
}

#endif
