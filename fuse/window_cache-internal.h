/* gzip windows in memory. Under the data path's lock. */
#ifndef SLUICE_FUSE_WINDOW_CACHE_INTERNAL_H
#define SLUICE_FUSE_WINDOW_CACHE_INTERNAL_H

#include <sys/queue.h>

#include "base/buffer.h"
#include "fuse/worker_pool-internal.h"

struct layer_device;

enum windows_state {
    WINDOWS_FOLLOWING, /* comes with another group that is being fetched */
    WINDOWS_LOADING,   /* from the cache directory */
    WINDOWS_FETCHING,  /* from the registry */
    WINDOWS_CHECKING,  /* against the digest */
    WINDOWS_READY,
    WINDOWS_FAILED, /* no longer in the list; freed when its last user leaves */
};

/* The compressed bytes of a group of windows. */
struct window_group_entry {
    struct layer_device *device;
    uint32_t group;
    enum windows_state state;
    struct buffer data;
    char *failure;     /* FAILED: why; NULL: out of memory */
    bool had_its_time; /* FAILED: as range_request_had_its_time() */
    unsigned users;    /* runs */
    unsigned attempts;
    struct range_request *request;
    uint32_t asked_first, asked_count; /* groups that it asks for, one of which is `group` */
    struct buffer body;                /* CHECKING: of all these */
    struct window_group_entry *leader; /* FOLLOWING: with which it comes */
    struct job job;
    TAILQ_ENTRY(window_group_entry) link; /* least recently used first */
};

/* The group, on its way or there; NULL: out of memory. Each use is ended by window_group_leave().
 */
struct window_group_entry *window_group_use(struct layer_device *device, uint32_t group);
void window_group_leave(struct window_group_entry *entry);
void window_group_close_device(struct layer_device *device);
/* After the device's last work: frees what it has. */
void window_group_forget_device(struct layer_device *device);

#endif
