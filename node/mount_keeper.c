#include "node/mount_keeper.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "fuse/erofs_mount.h"
#include "fuse/fuse_mount.h"
#include "fuse/mount_table.h"
#include "index/erofs_image.h"
#include "node/question.h"

#define READAHEAD_KIBIBYTES_MAX (64u << 10)

void mount_keeper_init(struct mount_keeper *keeper, const char *mountpoint, bool allow_suid,
                       bool allow_devices)
{
    *keeper = (struct mount_keeper){ .mountpoint = mountpoint,
                                     .allow_suid = allow_suid,
                                     .allow_devices = allow_devices,
                                     .device_mount = -1,
                                     .connection = -1,
                                     .end = -1 };
    pthread_mutex_init(&keeper->lock, NULL);
}

static void forget_device_mount(struct mount_keeper *keeper)
{
    if (keeper->device_mount >= 0) close(take_descriptor(&keeper->device_mount));
}

static void keep(const struct mount_keeper *keeper, int *place, int descriptor)
{
    if (*place >= 0) close(take_descriptor(place));
    if (keeper->keeps && descriptor >= 0) *place = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
}

static void forget(struct mount_keeper *keeper)
{
    keep(keeper, &keeper->connection, -1);
    keep(keeper, &keeper->end, -1);
}

static int check_open(const struct mount_keeper *keeper, struct error **error)
{
    if (!keeper->closed) return 0;
    return error_set(error, ERROR_INVALID, "'%s' was mounted before", keeper->mountpoint);
}

static void answer_mounted(struct mount_keeper *keeper, int to, const struct error *error,
                           int descriptor)
{
    keeper->closed |= descriptor >= 0;
    /* A server that was killed meanwhile leaves no mount that was never served. */
    if (question_answer(to, error, NULL, descriptor) < 0) tree_mount_detach(&keeper->mount);
}

static void mount_fuse(struct mount_keeper *keeper, const char *source, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    struct fuse_mount_options options = { .source = source,
                                          .allow_suid = keeper->allow_suid,
                                          .allow_devices = keeper->allow_devices };
    forget_device_mount(keeper);
    if (check_open(keeper, &error) == 0)
        descriptor = fuse_mount_attach(&keeper->mount, keeper->mountpoint, &options, &error);
    keeper->by_fuse = descriptor >= 0;
    answer_mounted(keeper, to, error, descriptor);
}

static void mount_devices(struct mount_keeper *keeper, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    forget_device_mount(keeper);
    if (check_open(keeper, &error) == 0)
        descriptor = device_mount_attach(&keeper->device_mount, &error);
    question_answer(to, error, NULL, descriptor);
}

/* The metadata and the devices. */
struct tree_files {
    int descriptors[1 + EROFS_DEVICES_MAX + 1]; /* -1: a file of the device mount */
    uint32_t count;
};

static void tree_files_close(struct tree_files *files)
{
    for (uint32_t i = 0; i < files->count; i++)
        if (files->descriptors[i] >= 0) close(files->descriptors[i]);
}

static int receive_tree(struct tree_files *ret, int from, struct error **error)
{
    for (;;) {
        char item = 0;
        int descriptor;
        if (descriptor_message_receive(from, &item, 1, &descriptor) <= 0) break;
        bool room = ret->count < sizeof ret->descriptors / sizeof *ret->descriptors;
        bool fits = item == TREE_FILE ? descriptor >= 0 : descriptor < 0;
        if (item == TREE_END && fits && ret->count > 0) return 0;
        if (room) ret->descriptors[ret->count++] = descriptor;
        if (!room && descriptor >= 0) close(descriptor);
        if (!room || !fits || (item != TREE_FILE && item != TREE_DEVICE_MOUNT)) break;
    }
    return error_set(error, ERROR_INVALID, "what the kernel is to mount is not complete");
}

static void mount_by_kernel(struct mount_keeper *keeper, const char *source, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    struct erofs_mount_options options = { .allow_suid = keeper->allow_suid,
                                           .allow_devices = keeper->allow_devices };
    struct tree_files files = { .count = 0 };
    if (check_open(keeper, &error) == 0 && receive_tree(&files, to, &error) == 0) {
        struct kernel_tree tree = { .source = source,
                                    .metadata = files.descriptors[0],
                                    .devices = files.descriptors + 1,
                                    .device_count = files.count - 1 };
        descriptor = erofs_mount_attach(&keeper->mount, keeper->mountpoint, &tree,
                                        keeper->device_mount, &options, &error);
    }
    tree_files_close(&files);
    /* From now on the kernel's EROFS keeps it. */
    forget_device_mount(keeper);
    keep(keeper, &keeper->end, descriptor);
    answer_mounted(keeper, to, error, descriptor);
}

static void tune(const struct mount_keeper *keeper, const char *readahead)
{
    char *end;
    unsigned long kibibytes = strtoul(readahead, &end, 10);
    if (!keeper->mount.attached) return;
    if (keeper->by_fuse) fuse_mount_tune(keeper->mount.device_minor);
    if (*readahead && !*end && kibibytes <= READAHEAD_KIBIBYTES_MAX)
        tree_mount_set_readahead(&keeper->mount, (unsigned)kibibytes);
}

/* With the lock. */
static void handle(struct mount_keeper *keeper, enum broker_verb verb, const char *text, int to)
{
    switch (verb) {
    case BROKER_MOUNT:
        mount_fuse(keeper, text, to);
        return;
    case BROKER_DEVICES:
        mount_devices(keeper, to);
        return;
    case BROKER_KERNEL:
        mount_by_kernel(keeper, text, to);
        return;
    case BROKER_TUNE:
        tune(keeper, text);
        question_answer(to, NULL, NULL, -1);
        return;
    case BROKER_UNMOUNT:
        tree_mount_detach(&keeper->mount);
        question_answer(to, NULL, NULL, -1);
        return;
    case BROKER_CREDENTIALS:
    case BROKER_GONE:
        return;
    }
}

void mount_keeper_handle(struct mount_keeper *keeper, enum broker_verb verb, const char *text,
                         int to)
{
    pthread_mutex_lock(&keeper->lock);
    handle(keeper, verb, text, to);
    pthread_mutex_unlock(&keeper->lock);
}

void mount_keeper_close(struct mount_keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    keeper->closed = true;
    forget_device_mount(keeper);
    tree_mount_detach(&keeper->mount);
    pthread_mutex_unlock(&keeper->lock);
}

void mount_keeper_forget(struct mount_keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    forget(keeper);
    pthread_mutex_unlock(&keeper->lock);
}

/* Of a process before this one, which nobody serves. */
static void clear_mountpoint(const char *mountpoint)
{
    struct mount_entry entry;
    bool found;
    while (mount_table_find(mountpoint, &found, &entry, NULL) == 0 && found && entry.ours)
        if (umount2(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) < 0) return;
}

void mount_keeper_renew(struct mount_keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    forget_device_mount(keeper);
    forget(keeper);
    tree_mount_free(&keeper->mount);
    clear_mountpoint(keeper->mountpoint);
    keeper->mount = (struct tree_mount){ 0 };
    keeper->closed = false;
    pthread_mutex_unlock(&keeper->lock);
}

void mount_keeper_free(struct mount_keeper *keeper)
{
    forget_device_mount(keeper);
    forget(keeper);
    free(keeper->mount.mountpoint);
    pthread_mutex_destroy(&keeper->lock);
}
