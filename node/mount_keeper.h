/*
 * Mounts one tree for a server that may not, by either front door, and keeps what it takes to
 * unmount it again. Asked by the requests of broker-internal.h. Any thread.
 */
#ifndef SLUICE_NODE_MOUNT_KEEPER_H
#define SLUICE_NODE_MOUNT_KEEPER_H

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"
#include "fuse/tree_mount.h"
#include "node/broker-internal.h"

struct mount_keeper {
    const char *mountpoint; /* borrowed */
    bool allow_suid, allow_devices;
    pthread_mutex_t lock;
    bool closed; /* nothing may be mounted (any more) */
    struct tree_mount mount;
    bool by_fuse;
    int device_mount; /* until the kernel front door is mounted; or -1 */
};

void mount_keeper_init(struct mount_keeper *keeper, const char *mountpoint, bool allow_suid,
                       bool allow_devices);
/* Answers a request of a verb that is about mounts at `to`. It mounts once. */
void mount_keeper_handle(struct mount_keeper *keeper, enum broker_verb verb, const char *text,
                         int to);
/* Unmounts, if something is still mounted; nothing will be. */
void mount_keeper_close(struct mount_keeper *keeper);
/* As it was after mount_keeper_init(), once what is left of an earlier mount is unmounted. */
void mount_keeper_renew(struct mount_keeper *keeper);
/* What is mounted stays. */
void mount_keeper_free(struct mount_keeper *keeper);

#endif
