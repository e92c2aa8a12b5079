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
    /* For the next server, where this is wanted, or -1: what tells the end of what the kernel has
     * mounted, and the connection. The latter comes from who serves it, once it does: mounting asks
     * the server, and must end with it. */
    bool keeps;
    int connection, end;
};

void mount_keeper_init(struct mount_keeper *keeper, const char *mountpoint, bool allow_suid,
                       bool allow_devices);
/* Answers a request of a verb that is about mounts at `to`. It mounts once. */
void mount_keeper_handle(struct mount_keeper *keeper, enum broker_verb verb, const char *text,
                         int to);
/* Unmounts, if something is still mounted; nothing will be. */
void mount_keeper_close(struct mount_keeper *keeper);
/* As it was after mount_keeper_init(), once what is left of earlier mounts is unmounted, also of
 * those of other processes. */
void mount_keeper_renew(struct mount_keeper *keeper);
/* Closes what is kept: nobody will serve what was mounted. */
void mount_keeper_forget(struct mount_keeper *keeper);
/* What is mounted stays, and forgets. */
void mount_keeper_free(struct mount_keeper *keeper);

#endif
