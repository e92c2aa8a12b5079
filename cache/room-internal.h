/*
 * Room in the cache directory: what may still be stored.
 *
 * `usage` is a file of the directory, mapped by all who use it, that counts
 * bytes: who wants to store takes room first. Where there is none, a thread of
 * the cache evicts, and those who wait for room are called back. The count is
 * an estimate between two measurements: a process that dies takes with it what
 * it had taken, so each eviction measures, and puts the count right.
 */
#ifndef SLUICE_CACHE_ROOM_INTERNAL_H
#define SLUICE_CACHE_ROOM_INTERNAL_H

#include <sys/queue.h>

#include "cache/cache-internal.h"

int room_new(struct room **ret, struct cache *cache, struct error **error);
/* When nobody waits any more. NULL is fine. */
void room_free(struct room *room);
void room_set_limits(struct room *room, const struct cache_limits *limits);
struct cache_limits room_limits(const struct room *room);
/* Bytes on disk, as counted. */
uint64_t room_usage(const struct room *room);
/* Bytes that can be taken before anything is evicted for them. */
uint64_t room_left(const struct room *room);

enum room_answer {
    ROOM_TAKEN,
    ROOM_WAIT, /* none now: room_wait() */
    ROOM_NONE, /* none, and none to be had a moment ago */
};
/* Takes room for `length` bytes. Never waits. */
enum room_answer room_take(struct room *room, uint64_t length);
/* What was taken is not used. */
void room_give_back(struct room *room, uint64_t length);
/* What was taken is on the disk now, or never will be. */
void room_stored(struct room *room, uint64_t length);
/* What was on the disk is no more. */
void room_freed(struct room *room, uint64_t length);

/* `taken`: there is room now, and it is taken. On the room's thread; must not wait. */
struct room_waiter {
    uint64_t length;
    void (*done)(struct room_waiter *waiter, bool taken);
    STAILQ_ENTRY(room_waiter) link;
};
void room_wait(struct room *room, struct room_waiter *waiter);
/* Takes room for a small file, and evicts for it on this thread where it must. */
bool room_take_now(struct room *room, uint64_t length);

/* Evicts what no mount uses until no more than `size` bytes are taken. False: others are at it. */
struct eviction_result;
bool room_prune(struct room *room, uint64_t size, struct eviction_result *ret);

/* ---- the eviction, in eviction.c ---- */

struct eviction_goal {
    uint64_t wanted;   /* bytes that are about to be stored */
    uint64_t size_max; /* evict when usage would exceed it ... */
    uint64_t size_low; /* ... down to this */
    uint64_t free_min; /* of the file system, beyond what is wanted */
    bool unused_only;  /* spare what a mount uses */
};
struct eviction_result {
    uint64_t measured; /* bytes on disk before */
    uint64_t freed;
};
/* With CACHE_LOCK_EVICTION. False: memory is short. */
bool eviction_run(struct cache *cache, const struct eviction_goal *goal,
                  struct eviction_result *ret);

#endif
