#include "fuse/erofs_mount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/fuse_mount.h"

#define BLOCK_BYTES       512u /* of our metadata; EROFS reads devices in multiples of it */
#define SOURCE_LENGTH_MAX 250u /* fsconfig(2) takes 255 */
/* Making a file system takes milliseconds. */
#define LOCK_PATIENCE_MS 1000u
#define LOCK_AGAIN_MS    5u

/* ---- file system contexts ---- */

static int open_context(const char *type, struct error **error)
{
    int context = fsopen(type, FSOPEN_CLOEXEC);
    if (context >= 0) return context;
    int number = errno;
    error_set_errno(error, number, "mount %s", type);
    if (number == EPERM) error_hint(error, "mounting needs CAP_SYS_ADMIN");
    if (number == ENODEV) error_hint(error, "the kernel has no such file system");
    return -1;
}

/* The kernel's own words about what it refused, without the letter for their level; "" where there
 * are none. */
static void read_reason(int context, char *text, size_t capacity)
{
    ssize_t length = read(context, text, capacity - 1);
    text[length > 0 ? length : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    if (length > 2 && text[1] == ' ') memmove(text, text + 2, strlen(text + 2) + 1);
}

static int refused(int context, const char *what, struct error **error)
{
    int number = errno;
    char reason[256];
    read_reason(context, reason, sizeof reason);
    if (reason[0]) return error_set_errno(error, number, "%s (%s)", what, reason);
    return error_set_errno(error, number, "%s", what);
}

static int set_string(int context, const char *key, const char *value, struct error **error)
{
    if (fsconfig(context, FSCONFIG_SET_STRING, key, value, 0) == 0) return 0;
    return refused(context, key, error);
}

static int set_number(int context, const char *key, unsigned value, struct error **error)
{
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    return set_string(context, key, text, error);
}

static int create(int context, struct error **error)
{
    if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) return 0;
    return refused(context, "make the file system", error);
}

/* A mount that is nowhere in the tree of mounts. */
static int mount_nowhere(int context, unsigned attributes, struct error **error)
{
    int mount = fsmount(context, FSMOUNT_CLOEXEC, attributes);
    if (mount < 0) return refused(context, "fsmount", error);
    return mount;
}

/* ---- the file system of devices ---- */

static int configure_fuse(int context, int connection, struct error **error)
{
    if (set_string(context, "source", "sluice-devices", error) < 0 ||
        set_number(context, "fd", (unsigned)connection, error) < 0 ||
        set_string(context, "rootmode", "40000", error) < 0 ||
        set_number(context, "user_id", geteuid(), error) < 0 ||
        set_number(context, "group_id", getegid(), error) < 0)
        return -1;
    /* The kernel refuses a server that lets owners be mapped (fuse_negotiated.h) without it. */
    if (fsconfig(context, FSCONFIG_SET_FLAG, "default_permissions", NULL, 0) < 0)
        return refused(context, "default_permissions", error);
    return create(context, error);
}

int device_mount_attach(int *ret_mount, struct error **error)
{
    cleanup_close int connection = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (connection < 0) return error_set_errno(error, errno, "open '/dev/fuse'");
    cleanup_close int context = open_context("fuse", error);
    if (context < 0) return -1;
    if (configure_fuse(context, connection, error) < 0) return error_prefix(error, "mount devices");
    int mount = mount_nowhere(
        context, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        error);
    if (mount < 0) return -1;
    *ret_mount = mount;
    return take_descriptor(&connection);
}

/* ---- the source ---- */

/* EROFS opens what it is told as its source, and this is what the table of mounts shows: a name is
 * made for the descriptor, in a file system of its own. */

static int open_names(struct error **error)
{
    cleanup_close int context = open_context("tmpfs", error);
    if (context < 0 || set_string(context, "mode", "0700", error) < 0 || create(context, error) < 0)
        return -1;
    return mount_nowhere(context, 0, error);
}

/* "a/b/c": makes the directories and goes into the last; `*ret_name` is what remains. */
static int enter_parents(int directory, char *name, char **ret_name)
{
    cleanup_close int inside = dup(directory);
    char *slash;
    while (inside >= 0 && (slash = strchr(name, '/'))) {
        *slash = 0;
        if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            errno = EINVAL;
            return -1;
        }
        if (mkdirat(inside, name, 0700) < 0) return -1;
        int next = openat(inside, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(inside);
        inside = next;
        name = slash + 1;
    }
    *ret_name = name;
    return take_descriptor(&inside);
}

static int make_name(int names, const char *source, int descriptor)
{
    char path[SOURCE_LENGTH_MAX + 1], target[32];
    char *name;
    snprintf(path, sizeof path, "%s", source);
    snprintf(target, sizeof target, "/proc/self/fd/%d", descriptor);
    cleanup_close int parent = enter_parents(names, path, &name);
    return parent < 0 ? -1 : symlinkat(target, parent, name);
}

/* ---- EROFS ---- */

static bool is_plain_file(int descriptor)
{
    struct stat status;
    int flags = fcntl(descriptor, F_GETFL);
    /* Files are opened once more, with our privileges: only what can be read already may be. */
    return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != O_WRONLY &&
           fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
}

static int check_files(const struct kernel_tree *tree, struct error **error)
{
    if (!is_plain_file(tree->metadata))
        return error_set(error, ERROR_INVALID, "the metadata is no plain file");
    for (uint32_t i = 0; i < tree->device_count; i++)
        if (tree->devices[i] >= 0 && !is_plain_file(tree->devices[i]))
            return error_set(error, ERROR_INVALID, "device %u is no plain file", i + 1);
    return 0;
}

/* Without the page cache of the devices, what is read is in memory once. A disk with larger sectors
 * than our blocks cannot do that. */
static bool can_read_directly(const struct kernel_tree *tree)
{
#ifdef STATX_DIOALIGN
    for (uint32_t i = 0; i < tree->device_count; i++) {
        struct statx status;
        if (tree->devices[i] < 0) continue;
        if (statx(tree->devices[i], "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 ||
            !(status.stx_mask & STATX_DIOALIGN) || status.stx_dio_offset_align == 0 ||
            status.stx_dio_offset_align > BLOCK_BYTES)
            return false;
    }
    return true;
#else
    for (uint32_t i = 0; i < tree->device_count; i++)
        if (tree->devices[i] >= 0) return false;
    return true;
#endif
}

static int add_device(int context, int descriptor, struct error **error)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return set_string(context, "device", path, error);
}

/* Devices that the FUSE file system has; `opened` takes descriptors that must stay until the file
 * system is made. */
static int open_device_files(const struct kernel_tree *tree, int device_mount, int *opened,
                             struct error **error)
{
    for (uint32_t i = 0; i < tree->device_count; i++) {
        char name[16];
        if (tree->devices[i] >= 0) continue;
        snprintf(name, sizeof name, "%u", i + 1);
        opened[i] = openat(device_mount, name, O_PATH | O_CLOEXEC | O_NOFOLLOW);
        struct stat status;
        if (opened[i] < 0 || fstat(opened[i], &status) < 0)
            return error_set_errno(error, errno, "open device %u", i + 1);
        if (!S_ISREG(status.st_mode))
            return error_set(error, ERROR_INVALID, "device %u is no plain file", i + 1);
    }
    return 0;
}

static int configure_erofs(int context, const char *source, const struct kernel_tree *tree,
                           const int *opened, struct error **error)
{
    if (set_string(context, "source", source, error) < 0) return -1;
    for (uint32_t i = 0; i < tree->device_count; i++)
        if (add_device(context, tree->devices[i] >= 0 ? tree->devices[i] : opened[i], error) < 0)
            return -1;
    if (fsconfig(context, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0)
        return refused(context, "ro", error);
    /* Linux 6.15; without it bytes are in memory twice. */
    if (can_read_directly(tree) && fsconfig(context, FSCONFIG_SET_FLAG, "directio", NULL, 0) < 0)
        log_info("this kernel's EROFS has no direct I/O");
    return 0;
}

/* The newest of all is the one with the highest number; 0: there is none. */
static unsigned long newest_bdi(void)
{
    DIR *listing = opendir(TREE_MOUNT_BDI);
    unsigned long newest = 0;
    const struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        unsigned long number = 0;
        if (strncmp(entry->d_name, "erofs-", 6) == 0) number = strtoul(entry->d_name + 6, NULL, 10);
        if (number > newest) newest = number;
    }
    if (listing) closedir(listing);
    return newest;
}

/* Whoever has it may be stopped, or be waiting for a server that is. */
static bool lock_in_time(int lock)
{
    for (unsigned waited = 0; flock(lock, LOCK_EX | LOCK_NB) < 0; waited += LOCK_AGAIN_MS) {
        if (errno != EWOULDBLOCK || waited >= LOCK_PATIENCE_MS) return false;
        usleep(LOCK_AGAIN_MS * 1000);
    }
    return true;
}

/* Makes the file system with `names` as the working directory, of this thread alone. */
static int create_erofs(int context, int names, unsigned long *ret_bdi, struct error **error)
{
    cleanup_close int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* No other mount of ours comes between making the file system and looking for the newest. */
    cleanup_close int lock = open(TREE_MOUNT_BDI, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (before < 0 || unshare(CLONE_FS) < 0 || fchdir(names) < 0)
        return error_set_errno(error, errno, "change the working directory");
    /* Without it nobody knows which is the newest, and the kernel reads ahead as it does. */
    bool alone = lock >= 0 && lock_in_time(lock);
    int result = create(context, error);
    *ret_bdi = alone ? newest_bdi() : 0;
    if (fchdir(before) < 0 && result == 0)
        result = error_set_errno(error, errno, "change the working directory");
    return result;
}

static int make_erofs(const struct kernel_tree *tree, const int *opened, unsigned long *ret_bdi,
                      struct error **error)
{
    char source[SOURCE_LENGTH_MAX + 1];
    snprintf(source, sizeof source, EROFS_MOUNT_SOURCE "%s", tree->source);
    for (size_t end = strlen(source); source[end - 1] == '/'; end--)
        source[end - 1] = 0;
    cleanup_close int context = open_context("erofs", error);
    if (context < 0) return -1;
    cleanup_close int names = open_names(error);
    if (names < 0) return -1;
    if (make_name(names, source, tree->metadata) < 0)
        return error_set_errno(error, errno, "make a name '%s'", source);
    if (configure_erofs(context, source, tree, opened, error) < 0 ||
        create_erofs(context, names, ret_bdi, error) < 0) {
        if (error && error_errno(*error) == ENOTBLK)
            error_hint(error, "the kernel mounts EROFS from a file from Linux 6.12 on, and not "
                              "from every file system");
        return -1;
    }
    return take_descriptor(&context);
}

/* Readable when the file system goes: the kernel then says so to who watches something in it. */
static int watch_end(int mount, struct error **error)
{
    char path[32];
    cleanup_close int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    snprintf(path, sizeof path, "/proc/self/fd/%d", mount);
    if (watch < 0 || inotify_add_watch(watch, path, IN_DELETE_SELF) < 0)
        return error_set_errno(error, errno, "watch the mount");
    return take_descriptor(&watch);
}

static int attach(const char *resolved, const struct kernel_tree *tree, const int *opened,
                  const struct erofs_mount_options *options, unsigned long *ret_bdi,
                  struct error **error)
{
    cleanup_close int context = make_erofs(tree, opened, ret_bdi, error);
    if (context < 0) return -1;
    unsigned attributes = MOUNT_ATTR_RDONLY | (options->allow_suid ? 0 : MOUNT_ATTR_NOSUID) |
                          (options->allow_devices ? 0 : MOUNT_ATTR_NODEV);
    cleanup_close int mount = mount_nowhere(context, attributes, error);
    if (mount < 0) return -1;
    cleanup_close int end = watch_end(mount, error);
    if (end < 0) return -1;
    if (move_mount(mount, "", AT_FDCWD, resolved, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return error_set_errno(error, errno, "mount on '%s'", resolved);
    return take_descriptor(&end);
}

static void tune_connection(int device_mount)
{
    struct stat status;
    if (device_mount >= 0 && fstat(device_mount, &status) == 0)
        fuse_mount_tune(minor(status.st_dev));
}

int erofs_mount_attach(struct tree_mount *ret, const char *mountpoint,
                       const struct kernel_tree *tree, int device_mount,
                       const struct erofs_mount_options *options, struct error **error)
{
    cleanup_free char *resolved = tree_mount_resolve(mountpoint, error);
    if (!resolved || check_files(tree, error) < 0) return -1;
    cleanup_free int *opened = malloc((tree->device_count + 1u) * sizeof *opened);
    if (!opened) return error_set_memory(error);
    for (uint32_t i = 0; i < tree->device_count; i++)
        opened[i] = -1;
    tune_connection(device_mount);
    cleanup_close int end = -1;
    unsigned long bdi = 0;
    if (open_device_files(tree, device_mount, opened, error) == 0)
        end = attach(resolved, tree, opened, options, &bdi, error);
    for (uint32_t i = 0; i < tree->device_count; i++)
        if (opened[i] >= 0) close(opened[i]);
    if (end < 0 || tree_mount_note(ret, &resolved, error) < 0) return -1;
    ret->bdi[0] = 0;
    if (bdi) snprintf(ret->bdi, sizeof ret->bdi, "erofs-%lu", bdi);
    return take_descriptor(&end);
}
