/* The FUSE file system over a real image; contents come from a device of the test's own. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "index/entry_table.h"
#include "index/merge.h"
#include "tests/unit/mounted_rootfs.h"

#define MANY          5000u
#define TOOL_OFFSET   4096u
#define TOOL_SIZE     UINT64_C(3145745) /* no multiple of a block */
#define STREAM_LENGTH UINT64_C(4194304)

/* Instead of fuse/layer_device.c: byte i of the stream is a function of i. */
struct layer_device {
    int dummy;
};

static uint8_t stream_byte(uint64_t offset)
{
    return (uint8_t)(offset * 31 + (offset >> 9));
}

void layer_device_read(struct layer_device *device, struct device_reader *reader, uint64_t offset,
                       size_t length, device_read_done *done, void *context)
{
    (void)reader;
    (void)device;
    cleanup_free uint8_t *data = malloc(length);
    if (!data) abort();
    for (size_t i = 0; i < length; i++)
        data[i] = stream_byte(offset + i);
    done(context, data, (ssize_t)length);
}

/* ---- images ---- */

struct tree {
    struct buffer bytes;
    struct erofs_image image;
    struct layer_device device;
    struct mounted mounted;
};

static void add(struct entry_table *table, const struct entry *entry)
{
    struct error *error = NULL;
    if (entry_table_append(table, entry, &error) < 0) fail_msg("%s", error_message(error));
}

static void add_many(struct entry_table *table)
{
    add(table, &(struct entry){ .type = ENTRY_DIRECTORY, .path = "many", .mode = 0755 });
    for (unsigned i = 0; i < MANY; i++) {
        char path[64];
        snprintf(path, sizeof path, "many/a name that is rather long, number %04u", i);
        add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = path, .mode = 0644 });
    }
}

static void add_entries(struct entry_table *table)
{
    static const struct entry entries[] = {
        { .type = ENTRY_DIRECTORY, .path = "", .mode = 0755, .mtime = 7 },
        { .type = ENTRY_DIRECTORY, .path = "bin", .mode = 0755 },
        { .type = ENTRY_REGULAR,
          .path = "bin/tool",
          .mode = 04755,
          .uid = 3,
          .gid = 70000,
          .mtime = 1700000000,
          .mtime_nsec = 123456789,
          .size = TOOL_SIZE,
          .data_offset = TOOL_OFFSET },
        { .type = ENTRY_HARDLINK, .path = "bin/also", .target = "bin/tool" },
        { .type = ENTRY_REGULAR, .path = "empty", .mode = 0644 },
        { .type = ENTRY_REGULAR, .path = "secret", .mode = 0600, .size = 10, .data_offset = 512 },
        { .type = ENTRY_SYMLINK, .path = "link", .target = "bin/../bin/tool", .mode = 0777 },
        { .type = ENTRY_CHARACTER_DEVICE,
          .path = "device",
          .mode = 0666,
          .device_major = 300,
          .device_minor = 70000 },
        { .type = ENTRY_FIFO, .path = "fifo", .mode = 0640 },
    };
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++)
        add(table, &entries[i]);
    add_many(table);
}

/* struct vfs_ns_cap_data of <linux/capability.h>, version 2: the kernel looks at it. */
static const uint8_t capability[20] = { 1, 0, 0, 2, 0, 0x20 };

/* acl(5) as <linux/posix_acl_xattr.h> has it: the owner rw-, user 65534 r--, the group ---, mask
 * r--, others ---. */
static const uint8_t access_list[4 + 5 * 8] = {
    2,  0, 0, 0,                         /* version */
    1,  0, 6, 0, 0xff, 0xff, 0xff, 0xff, /* owner */
    2,  0, 4, 0, 0xfe, 0xff, 0,    0,    /* user 65534 */
    4,  0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* group */
    16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, /* mask */
    32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* others */
};

static void add_attributes(struct entry_table *table)
{
    static const struct entry_xattr xattrs[] = {
        { "security.capability", capability, sizeof capability },
        { "user.empty", "", 0 },
        { "user.name", "value", 5 },
    };
    add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                .path = "attributes",
                                .mode = 0644,
                                .xattrs = xattrs,
                                .xattr_count = 3 });
    static const struct entry_xattr list = { "system.posix_acl_access", access_list,
                                             sizeof access_list };
    add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                .path = "listed",
                                .mode = 0640,
                                .xattrs = &list,
                                .xattr_count = 1 });
    add(table, &(struct entry){ .type = ENTRY_REGULAR,
                                .path = "listed for the group",
                                .mode = 0640,
                                .gid = 65534,
                                .xattrs = &list,
                                .xattr_count = 1 });
}

/* Takes the table over. */
static void merge_image(struct tree *tree, struct entry_table *table)
{
    struct error *error = NULL;
    struct merge_layer layer = { .entries = table, .stream_length = STREAM_LENGTH };
    uint64_t length = STREAM_LENGTH;
    if (merge_layers(&layer, 1, &tree->bytes, &error) < 0 ||
        erofs_image_open(&tree->image, tree->bytes.data, tree->bytes.length, &error) < 0 ||
        erofs_image_validate(&tree->image, &length, 1, &error) < 0)
        fail_msg("%s", error_message(error));
    entry_table_free(table);
}

static void make_image(struct tree *tree, bool with_attributes)
{
    struct entry_table *table = entry_table_new();
    assert_non_null(table);
    add_entries(table);
    if (with_attributes) add_attributes(table);
    merge_image(tree, table);
}

static void mount_tree(struct tree *tree, bool with_attributes)
{
    need_fuse();
    memset(tree, 0, sizeof *tree);
    make_image(tree, with_attributes);
    mounted_start(&tree->mounted, &tree->image, (struct layer_device *[]){ &tree->device }, 1);
}

static void end_tree(struct tree *tree)
{
    mounted_end(&tree->mounted);
    buffer_free(&tree->bytes);
}

static struct stat look(const struct tree *tree, const char *name)
{
    struct stat status;
    if (lstat(mounted_path(&tree->mounted, name), &status) < 0)
        fail_msg("%s: %s", name, strerror(errno));
    return status;
}

/* ---- tests ---- */

static void test_attributes_of_entries(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    struct stat root = look(&tree, "");
    assert_true(S_ISDIR(root.st_mode));
    assert_int_equal(root.st_ino, tree.image.root_nid);
    assert_int_equal(root.st_mtim.tv_sec, 7);

    struct stat tool = look(&tree, "bin/tool");
    assert_int_equal(tool.st_mode, S_IFREG | 04755);
    assert_int_equal(tool.st_uid, 3);
    assert_int_equal(tool.st_gid, 70000);
    assert_int_equal(tool.st_size, TOOL_SIZE);
    assert_int_equal(tool.st_blocks, (TOOL_SIZE + 511) / 512);
    assert_int_equal(tool.st_nlink, 2);
    assert_int_equal(tool.st_mtim.tv_sec, 1700000000);
    assert_int_equal(tool.st_mtim.tv_nsec, 123456789);
    assert_int_equal(look(&tree, "bin/also").st_ino, tool.st_ino);

    assert_int_equal(look(&tree, "bin").st_nlink, 2);
    assert_int_equal(look(&tree, "fifo").st_mode, S_IFIFO | 0640);
    struct stat device = look(&tree, "device");
    assert_int_equal(device.st_mode, S_IFCHR | 0666);
    assert_int_equal(major(device.st_rdev), 300);
    assert_int_equal(minor(device.st_rdev), 70000);
    end_tree(&tree);
}

static void test_symlink(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    char target[100];
    for (int i = 0; i < 2; i++) {
        ssize_t length = readlink(mounted_path(&tree.mounted, "link"), target, sizeof target);
        assert_int_equal(length, strlen("bin/../bin/tool"));
        assert_memory_equal(target, "bin/../bin/tool", length);
    }
    struct stat status;
    assert_int_equal(stat(mounted_path(&tree.mounted, "link"), &status), 0);
    assert_int_equal(status.st_size, TOOL_SIZE);
    end_tree(&tree);
}

static void test_missing_names(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    static const char *const names[] = { "nothing", "bin/nothing", "bin/tool2", "bin/too",
                                         "many/a name" };
    char longest[257];
    memset(longest, 'x', 256);
    longest[256] = 0;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            assert_int_equal(access(mounted_path(&tree.mounted, names[i]), F_OK), -1);
            assert_int_equal(errno, ENOENT);
        }
        assert_int_equal(access(mounted_path(&tree.mounted, "empty/x"), F_OK), -1);
        assert_int_equal(errno, ENOTDIR);
        assert_int_equal(access(mounted_path(&tree.mounted, longest), F_OK), -1);
        assert_int_equal(errno, ENAMETOOLONG);
    }
    end_tree(&tree);
}

static void test_contents(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    cleanup_buffer struct buffer content = { 0 };
    assert_int_equal(file_read(mounted_path(&tree.mounted, "bin/tool"), TOOL_SIZE, &content, NULL),
                     0);
    assert_int_equal(content.length, TOOL_SIZE);
    for (size_t i = 0; i < TOOL_SIZE; i++)
        if (content.data[i] != stream_byte(TOOL_OFFSET + i)) fail_msg("byte %zu is wrong", i);

    content.length = 0;
    assert_int_equal(file_read(mounted_path(&tree.mounted, "empty"), 1, &content, NULL), 0);
    assert_int_equal(content.length, 0);

    cleanup_close int direct =
        open(mounted_path(&tree.mounted, "bin/also"), O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint8_t *block = aligned_alloc(4096, 8192);
    assert_non_null(block);
    assert_int_equal(pread(direct, block, 8192, 3145728), 17);
    assert_int_equal(block[16], stream_byte(TOOL_OFFSET + TOOL_SIZE - 1));
    assert_int_equal(pread(direct, block, 8192, 4194304), 0);
    free(block);
    end_tree(&tree);
}

static void test_nothing_can_be_changed(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    assert_int_equal(open(mounted_path(&tree.mounted, "empty"), O_WRONLY | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(mkdir(mounted_path(&tree.mounted, "new"), 0755), -1);
    assert_int_equal(errno, EROFS);
    assert_int_equal(unlink(mounted_path(&tree.mounted, "empty")), -1);
    assert_int_equal(errno, EROFS);
    end_tree(&tree);
}

/* Each name once, with its inode number and type. */
static unsigned count_listing(DIR *listing, unsigned char seen[MANY])
{
    unsigned others = 0;
    const struct dirent *entry;
    while ((entry = readdir(listing))) {
        const char *digits = strstr(entry->d_name, "number ");
        if (!digits) {
            others++;
            continue;
        }
        unsigned long number = strtoul(digits + strlen("number "), NULL, 10);
        assert_true(number < MANY);
        assert_int_equal(entry->d_type, DT_REG);
        assert_true(entry->d_ino != 0);
        seen[number]++;
    }
    return others;
}

static void test_large_directory(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    /* The second time from the kernel's memory. */
    for (int round = 0; round < 2; round++) {
        unsigned char seen[MANY] = { 0 };
        DIR *listing = opendir(mounted_path(&tree.mounted, "many"));
        assert_non_null(listing);
        assert_int_equal(count_listing(listing, seen), 2);
        for (unsigned i = 0; i < MANY; i++)
            assert_int_equal(seen[i], 1);
        closedir(listing);
    }
    end_tree(&tree);
}

static void test_seek_in_directory(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    DIR *listing = opendir(mounted_path(&tree.mounted, "many"));
    assert_non_null(listing);
    struct {
        long place;
        char name[256];
    } marks[10];
    for (unsigned i = 0; i < 10 * 400; i++) {
        long place = telldir(listing);
        const struct dirent *entry = readdir(listing);
        assert_non_null(entry);
        if (i % 400) continue;
        marks[i / 400].place = place;
        snprintf(marks[i / 400].name, sizeof marks[0].name, "%s", entry->d_name);
    }
    for (unsigned i = 0; i < 10; i++) {
        unsigned chosen = (i * 7 + 3) % 10;
        seekdir(listing, marks[chosen].place);
        const struct dirent *entry = readdir(listing);
        assert_non_null(entry);
        assert_string_equal(entry->d_name, marks[chosen].name);
    }
    closedir(listing);
    end_tree(&tree);
}

static void test_xattrs(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, true);
    const char *path = mounted_path(&tree.mounted, "attributes");
    char value[100];
    assert_int_equal(getxattr(path, "user.name", NULL, 0), 5);
    assert_int_equal(getxattr(path, "user.name", value, 5), 5);
    assert_memory_equal(value, "value", 5);
    assert_int_equal(getxattr(path, "user.name", value, 4), -1);
    assert_int_equal(errno, ERANGE);
    assert_int_equal(getxattr(path, "user.empty", value, sizeof value), 0);
    assert_int_equal(getxattr(path, "user.other", value, sizeof value), -1);
    assert_int_equal(errno, ENODATA);
    assert_int_equal(getxattr(path, "security.capability", value, sizeof value), 20);
    assert_memory_equal(value, capability, sizeof capability);

    static const char names[] = "security.capability\0user.empty\0user.name";
    assert_int_equal(listxattr(path, NULL, 0), sizeof names);
    assert_int_equal(listxattr(path, value, sizeof names), sizeof names);
    assert_memory_equal(value, names, sizeof names);
    assert_int_equal(listxattr(path, value, sizeof names - 1), -1);
    assert_int_equal(errno, ERANGE);
    assert_int_equal(listxattr(mounted_path(&tree.mounted, "empty"), value, sizeof value), 0);
    end_tree(&tree);
}

static void test_image_without_xattrs(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    char value[100];
    const char *path = mounted_path(&tree.mounted, "empty");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(getxattr(path, "user.name", value, sizeof value), -1);
        assert_int_equal(errno, ENOTSUP);
    }
    end_tree(&tree);
}

/* As in an image of busybox: hundreds of names, hardly an inode. */
static void test_file_of_many_names(void **state)
{
    (void)state;
    need_fuse();
    static struct tree tree;
    memset(&tree, 0, sizeof tree);
    struct entry_table *table = entry_table_new();
    assert_non_null(table);
    add(table, &(struct entry){ .type = ENTRY_REGULAR, .path = "busybox", .mode = 0755 });
    for (unsigned i = 1; i < 1000; i++) {
        char path[16];
        snprintf(path, sizeof path, "applet%u", i);
        add(table, &(struct entry){ .type = ENTRY_HARDLINK, .path = path, .target = "busybox" });
    }
    merge_image(&tree, table);
    mounted_start(&tree.mounted, &tree.image, (struct layer_device *[]){ &tree.device }, 1);
    assert_int_equal(look(&tree, "applet999").st_nlink, 1000);
    assert_int_equal(look(&tree, "applet999").st_ino, look(&tree, "busybox").st_ino);
    end_tree(&tree);
}

static void test_statfs(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    struct statvfs status;
    assert_int_equal(statvfs(tree.mounted.directory, &status), 0);
    assert_int_equal(status.f_blocks * status.f_frsize, STREAM_LENGTH);
    assert_int_equal(status.f_bavail, 0);
    assert_int_equal(status.f_files, tree.image.inode_count);
    assert_int_equal(status.f_namemax, 255);
    assert_int_equal(status.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV),
                     ST_RDONLY | ST_NOSUID | ST_NODEV);
    end_tree(&tree);
}

/* The kernel escapes spaces and backslashes. */
static void test_mount_table(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    cleanup_buffer struct buffer mounts = { 0 };
    assert_int_equal(file_read("/proc/self/mounts", 16 << 20, &mounts, NULL), 0);
    assert_int_equal(buffer_append_u8(&mounts, 0), 0);
    char expected[256];
    snprintf(expected, sizeof expected,
             "\nlocalhost:5000/a,\\040b\\134c:tag %s fuse.sluice ro,nosuid,nodev",
             tree.mounted.directory);
    assert_non_null(strstr((const char *)mounts.data, expected));
    end_tree(&tree);
}

/* Whether that user and group may read the file. */
static bool may_read(const struct tree *tree, const char *name, uid_t user, gid_t group)
{
    const char *path = mounted_path(&tree->mounted, name);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (setresgid(group, group, group) < 0 || setresuid(user, user, user) < 0) _exit(255);
        if (open(path, O_RDONLY) >= 0) _exit(1);
        _exit(errno == EACCES ? 0 : 255);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 255);
    return WEXITSTATUS(status);
}

static void test_permissions(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    assert_true(may_read(&tree, "empty", 65534, 65534));
    assert_false(may_read(&tree, "secret", 65534, 65534));
    end_tree(&tree);
}

static void test_access_lists(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, true);
    assert_true(may_read(&tree, "listed", 65534, 65534));
    assert_false(may_read(&tree, "listed", 65533, 65533));
    assert_false(may_read(&tree, "secret", 65534, 65534));
    /* The mode alone would allow it: its middle is the mask. */
    assert_false(may_read(&tree, "listed for the group", 65533, 65534));
    end_tree(&tree);
}

static void test_second_mount_is_refused(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    struct rootfs_options options = { .mountpoint = tree.mounted.directory, .source = "second" };
    struct rootfs *second = NULL;
    cleanup_error struct error *error = NULL;
    struct layer_device *devices[] = { &tree.device };
    assert_int_equal(rootfs_mount(&second, &tree.image, devices, 1, &options, &error), -1);
    assert_non_null(strstr(error_message(error), "sluice umount"));
    look(&tree, "empty");
    end_tree(&tree);
}

static void test_impossible_mounts(void **state)
{
    (void)state;
    struct tree tree = { 0 };
    make_image(&tree, false);
    static const char *const mountpoints[] = { "/nonexistent/directory", "/proc/self/status",
                                               "relative" };
    struct layer_device *devices[] = { &tree.device };
    for (size_t i = 0; i < sizeof mountpoints / sizeof mountpoints[0]; i++) {
        struct rootfs_options options = { .mountpoint = mountpoints[i], .source = "x" };
        struct rootfs *rootfs = NULL;
        cleanup_error struct error *error = NULL;
        assert_int_equal(rootfs_mount(&rootfs, &tree.image, devices, 1, &options, &error), -1);
        assert_non_null(strstr(error_message(error), mountpoints[i]));
    }
    struct rootfs_options options = { .mountpoint = "/tmp", .source = "x" };
    struct rootfs *rootfs = NULL;
    cleanup_error struct error *error = NULL;
    assert_int_equal(rootfs_mount(&rootfs, &tree.image, devices, 0, &options, &error), -1);
    buffer_free(&tree.bytes);
}

static void test_ends_when_unmounted(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    assert_int_equal(umount2(tree.mounted.directory, 0), 0);
    mounted_join(&tree.mounted);
    end_tree(&tree);
}

/* The tree is out of sight at once; who has a file open goes on until he closes it. */
static void test_unmounted_while_a_file_is_open(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    cleanup_close int file = open(mounted_path(&tree.mounted, "secret"), O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(umount2(tree.mounted.directory, MNT_DETACH), 0);
    assert_int_equal(access(mounted_path(&tree.mounted, "secret"), F_OK), -1);
    uint8_t byte;
    assert_int_equal(pread(file, &byte, 1, 9), 1);
    assert_int_equal(byte, stream_byte(512 + 9));
    close(take_descriptor(&file));
    mounted_join(&tree.mounted);
    end_tree(&tree);
}

static void test_stopped_while_a_file_is_open(void **state)
{
    (void)state;
    static struct tree tree;
    mount_tree(&tree, false);
    cleanup_close int file = open(mounted_path(&tree.mounted, "secret"), O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    end_tree(&tree);
    uint8_t byte;
    assert_int_equal(pread(file, &byte, 1, 9), -1);
    assert_int_equal(errno, ENOTCONN);
}

static void test_freed_without_being_served(void **state)
{
    (void)state;
    need_fuse();
    struct tree tree = { 0 };
    make_image(&tree, false);
    char directory[] = "/tmp/sluice-rootfs.XXXXXX";
    assert_non_null(mkdtemp(directory));
    struct rootfs_options options = { .mountpoint = directory, .source = "x" };
    struct rootfs *rootfs = NULL;
    struct layer_device *devices[] = { &tree.device };
    assert_int_equal(rootfs_mount(&rootfs, &tree.image, devices, 1, &options, NULL), 0);
    rootfs_free(rootfs);
    assert_int_equal(rmdir(directory), 0);
    buffer_free(&tree.bytes);
}

int main(void)
{
    /* A file system that answers nothing would keep the test for ever. */
    alarm(600);
#define TEST(name) cmocka_unit_test_teardown(name, mounted_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_attributes_of_entries),
        TEST(test_symlink),
        TEST(test_missing_names),
        TEST(test_contents),
        TEST(test_nothing_can_be_changed),
        TEST(test_large_directory),
        TEST(test_seek_in_directory),
        TEST(test_xattrs),
        TEST(test_image_without_xattrs),
        TEST(test_file_of_many_names),
        TEST(test_statfs),
        TEST(test_mount_table),
        TEST(test_permissions),
        TEST(test_access_lists),
        TEST(test_second_mount_is_refused),
        TEST(test_impossible_mounts),
        TEST(test_ends_when_unmounted),
        TEST(test_unmounted_while_a_file_is_open),
        TEST(test_stopped_while_a_file_is_open),
        TEST(test_freed_without_being_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
