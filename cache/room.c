#include "cache/room-internal.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/thread.h"

/* `usage`: a magic number and the count, in this machine's byte order: it means nothing elsewhere,
 * and is measured anew soon. */
#define USAGE_MAGIC  "SLUICECU"
#define USAGE_LENGTH 16u

#define RESERVE_PERCENT 5u
#define RESERVE_MAX     ((uint64_t)1 << 30)
/* Beyond the reserve, so that not each store evicts. */
#define MARGIN_MAX ((uint64_t)64 << 20)

/* When nothing could be evicted it is not tried again for each store. */
#define HOPELESS_MS 1000u
/* For an eviction by somebody else. */
#define PATIENCE_MS 1000u
/* Others may be faster to take what was made free. */
#define ROUNDS_MAX 3u
/* Who stores so much without an eviction measures: others may not have counted. */
#define MEASURE_LEAST ((uint64_t)64 << 20)

struct room {
    struct cache *cache;
    _Atomic uint64_t size, reserve; /* limits */
    struct mapping *mapping;        /* NULL: no file could be had */
    _Atomic uint64_t *usage;        /* in the mapping, else `alone` */
    _Atomic uint64_t alone;
    _Atomic uint64_t in_flight;      /* of `usage`: taken here, and not known to be on disk */
    _Atomic uint64_t since_measured; /* bytes taken */
    _Atomic uint64_t hopeless_until; /* milliseconds */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    STAILQ_HEAD(waiter_list, room_waiter) waiting;
    bool asked; /* for an eviction although nobody waits */
    bool ending, started;
    pthread_t thread;
};

/* ---- what there is ---- */

/* Above the first mark room is made in the background, down to the second. */
static uint64_t high_mark(uint64_t size)
{
    return size - size / 20;
}

static uint64_t low_mark(uint64_t size)
{
    return size - size / 10;
}

static uint64_t margin_of(uint64_t reserve)
{
    return reserve / 8 < MARGIN_MAX ? reserve / 8 : MARGIN_MAX;
}

/* Bytes of the file system that may be used; UINT64_MAX: it does not tell. */
static uint64_t free_bytes(const struct cache *cache)
{
    struct statvfs status;
    if (fstatvfs(cache->root, &status) < 0) return UINT64_MAX;
    return (uint64_t)status.f_bavail * status.f_frsize;
}

uint64_t cache_default_reserve(const struct cache *cache)
{
    struct statvfs status;
    if (fstatvfs(cache->root, &status) < 0) return 0;
    uint64_t part = (uint64_t)status.f_blocks * status.f_frsize / 100 * RESERVE_PERCENT;
    return part < RESERVE_MAX ? part : RESERVE_MAX;
}

uint64_t room_usage(const struct room *room)
{
    uint64_t usage = atomic_load(room->usage);
    return usage > INT64_MAX ? 0 : usage; /* a count that went below nothing */
}

uint64_t room_left(const struct room *room)
{
    uint64_t size = atomic_load(&room->size), reserve = atomic_load(&room->reserve);
    uint64_t usage = room_usage(room), unused = free_bytes(room->cache);
    uint64_t kept = reserve + margin_of(reserve), bound = UINT64_MAX;
    if (size > 0) bound = high_mark(size) > usage ? high_mark(size) - usage : 0;
    uint64_t left = unused > kept ? unused - kept : 0;
    return left < bound ? left : bound;
}

/* ---- taking ---- */

static void ask_for_eviction(struct room *room)
{
    pthread_mutex_lock(&room->lock);
    room->asked = true;
    pthread_cond_signal(&room->changed);
    pthread_mutex_unlock(&room->lock);
}

static bool leaves_reserve(const struct room *room, uint64_t length)
{
    uint64_t reserve = atomic_load(&room->reserve);
    uint64_t left = free_bytes(room->cache);
    return left >= reserve && left - reserve >= length;
}

static bool take(struct room *room, uint64_t length)
{
    uint64_t size = atomic_load(&room->size);
    atomic_fetch_add(&room->in_flight, length); /* first: who reads them reads it last */
    uint64_t before = atomic_fetch_add(room->usage, length);
    if (before > INT64_MAX) before = 0; /* a count that went below nothing */
    if ((size > 0 && (length > size || before > size - length)) || !leaves_reserve(room, length)) {
        room_give_back(room, length);
        return false;
    }
    uint64_t since = atomic_fetch_add(&room->since_measured, length) + length;
    bool is_late = since > MEASURE_LEAST && since > size / 8;
    if (size > 0 && (before + length > high_mark(size) || is_late)) ask_for_eviction(room);
    return true;
}

static bool is_hopeless(const struct room *room, uint64_t length)
{
    uint64_t size = atomic_load(&room->size);
    return (size > 0 && length > size) || clock_ms() < atomic_load(&room->hopeless_until);
}

enum room_answer room_take(struct room *room, uint64_t length)
{
    if (take(room, length)) return ROOM_TAKEN;
    return is_hopeless(room, length) ? ROOM_NONE : ROOM_WAIT;
}

void room_give_back(struct room *room, uint64_t length)
{
    atomic_fetch_sub(room->usage, length);
    room_stored(room, length);
}

void room_stored(struct room *room, uint64_t length)
{
    atomic_fetch_sub(&room->in_flight, length);
}

void room_freed(struct room *room, uint64_t length)
{
    atomic_fetch_sub(room->usage, length);
}

/* ---- making room ---- */

/* With the lock: between the two looks at the count nobody else puts it right. */
static bool evict_and_count(struct room *room, const struct eviction_goal *goal,
                            struct eviction_result *ret)
{
    uint64_t before = atomic_load(room->usage);
    uint64_t in_flight = atomic_load(&room->in_flight);
    atomic_store(&room->since_measured, 0);
    if (!eviction_run(room->cache, goal, ret)) return false;
    atomic_fetch_add(room->usage, ret->measured - ret->freed + in_flight - before);
    return true;
}

/* Also puts the count right. False: another process is at it. */
static bool evict(struct room *room, const struct eviction_goal *goal, struct eviction_result *ret)
{
    if (!cache_lock(room->cache, CACHE_LOCK_EVICTION, PATIENCE_MS)) return false;
    bool done = evict_and_count(room, goal, ret);
    cache_unlock(room->cache, CACHE_LOCK_EVICTION);
    if (done && ret->freed > 0)
        log_debug("evicted %llu bytes of %llu from cache directory '%s'",
                  (unsigned long long)ret->freed, (unsigned long long)ret->measured,
                  room->cache->directory);
    return done;
}

/* False: not now. */
static bool make_room(struct room *room, uint64_t wanted)
{
    uint64_t size = atomic_load(&room->size), reserve = atomic_load(&room->reserve);
    struct eviction_goal goal = { .wanted = wanted,
                                  .size_max = wanted ? size : high_mark(size),
                                  .size_low = low_mark(size),
                                  .free_min = reserve + margin_of(reserve) };
    if (size == 0) goal.size_max = goal.size_low = UINT64_MAX;
    if (wanted && leaves_reserve(room, wanted)) goal.free_min = 0;
    struct eviction_result result;
    return evict(room, &goal, &result);
}

bool room_prune(struct room *room, uint64_t size, struct eviction_result *ret)
{
    const struct eviction_goal goal = { .size_max = size, .size_low = size, .unused_only = true };
    return evict(room, &goal, ret);
}

bool room_take_now(struct room *room, uint64_t length)
{
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        if (take(room, length)) return true;
        if (is_hopeless(room, length)) return false;
        if (!make_room(room, length)) return false;
    }
    return take(room, length);
}

/* ---- the thread ---- */

/* Those who got no room stay in the list. */
static void serve_waiters(struct room *room, struct waiter_list *waiters)
{
    struct room_waiter *waiter;
    while ((waiter = STAILQ_FIRST(waiters)) && take(room, waiter->length)) {
        STAILQ_REMOVE_HEAD(waiters, link);
        waiter->done(waiter, true);
    }
}

static void refuse_waiters(struct waiter_list *waiters)
{
    struct room_waiter *waiter;
    while ((waiter = STAILQ_FIRST(waiters))) {
        STAILQ_REMOVE_HEAD(waiters, link);
        waiter->done(waiter, false);
    }
}

static void work_for(struct room *room, struct waiter_list *waiters)
{
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        uint64_t wanted = 0;
        struct room_waiter *waiter;
        STAILQ_FOREACH(waiter, waiters, link)
        wanted += waiter->length;
        if (wanted == 0 && round > 0) return;
        bool made = make_room(room, wanted);
        serve_waiters(room, waiters);
        if (!made) break;
    }
    if (STAILQ_EMPTY(waiters)) return;
    atomic_store(&room->hopeless_until, clock_ms() + HOPELESS_MS);
    refuse_waiters(waiters);
}

static void *room_loop(void *argument)
{
    struct room *room = argument;
    pthread_mutex_lock(&room->lock);
    while (!room->ending) {
        if (!room->asked && STAILQ_EMPTY(&room->waiting)) {
            pthread_cond_wait(&room->changed, &room->lock);
            continue;
        }
        struct waiter_list waiters = STAILQ_HEAD_INITIALIZER(waiters);
        STAILQ_CONCAT(&waiters, &room->waiting);
        room->asked = false;
        pthread_mutex_unlock(&room->lock);
        work_for(room, &waiters);
        pthread_mutex_lock(&room->lock);
    }
    pthread_mutex_unlock(&room->lock);
    return NULL;
}

void room_wait(struct room *room, struct room_waiter *waiter)
{
    pthread_mutex_lock(&room->lock);
    STAILQ_INSERT_TAIL(&room->waiting, waiter, link);
    pthread_cond_signal(&room->changed);
    pthread_mutex_unlock(&room->lock);
}

/* ---- limits ---- */

void room_set_limits(struct room *room, const struct cache_limits *limits)
{
    atomic_store(&room->size, limits->size);
    atomic_store(&room->reserve, limits->reserve);
    ask_for_eviction(room);
}

struct cache_limits room_limits(const struct room *room)
{
    return (struct cache_limits){ atomic_load(&room->size), atomic_load(&room->reserve) };
}

/* ---- making and ending ---- */

/* The shared count. Without it each process counts for itself, and measures. */
static void map_usage(struct room *room)
{
    struct stat status;
    char fresh[USAGE_LENGTH] = USAGE_MAGIC, found[8] = { 0 };
    cleanup_close int descriptor =
        cache_open_file(room->cache->root, "usage", O_RDWR | O_CREAT, &status);
    if (descriptor < 0) return;
    if (status.st_size != USAGE_LENGTH || read_fully_at(descriptor, found, 8, 0) != 8 ||
        memcmp(found, USAGE_MAGIC, 8) != 0) {
        if (write_fully(descriptor, fresh, sizeof fresh) < 0 ||
            ftruncate(descriptor, USAGE_LENGTH) < 0)
            return;
        room->asked = true;
    }
    struct error *error = NULL;
    if (mapping_new(&room->mapping, descriptor, USAGE_LENGTH, MAPPING_READ_WRITE, &error) < 0) {
        log_info("%s", error_message(error));
        error_free(error);
        return;
    }
    room->usage = (_Atomic uint64_t *)(void *)((uint8_t *)mapping_data(room->mapping) + 8);
}

int room_new(struct room **ret, struct cache *cache, struct error **error)
{
    struct room *room = calloc(1, sizeof *room);
    if (!room) return error_set_memory(error);
    room->cache = cache;
    room->usage = &room->alone;
    pthread_mutex_init(&room->lock, NULL);
    pthread_cond_init(&room->changed, NULL);
    STAILQ_INIT(&room->waiting);
    map_usage(room);
    if (thread_start(&room->thread, "sluice-room", room_loop, room, error) < 0) {
        room_free(room);
        return -1;
    }
    room->started = true;
    *ret = room;
    return 0;
}

void room_free(struct room *room)
{
    if (!room) return;
    pthread_mutex_lock(&room->lock);
    room->ending = true;
    pthread_cond_signal(&room->changed);
    pthread_mutex_unlock(&room->lock);
    if (room->started) pthread_join(room->thread, NULL);
    mapping_free(room->mapping);
    pthread_cond_destroy(&room->changed);
    pthread_mutex_destroy(&room->lock);
    free(room);
}
