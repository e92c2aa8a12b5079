/*
 * Chunks that nobody waits for.
 *
 * A supply is asked for chunks as long as it has few out, so that what it names
 * can be joined into ranges, and no list of chunks is held here. A chunk that
 * it named is wanted like one that a reader waits for, only later; it goes back
 * to the supply when its record is settled, which is the one place where it can
 * end. Callbacks come after the lock was let go, and a supply that was taken
 * away gets none. Of several of a kind each may have its share out, so that
 * none waits for all that another has named.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "fuse/chunk_state-internal.h"
#include "fuse/layer_device-internal.h"
#include "fuse/supply-internal.h"

struct supply {
    LIST_ENTRY(supply) link; /* in the data path's, unless it is gone */
    struct chunk_supply from;
    unsigned references; /* the data path's, and one for each chunk that is out */
    unsigned out;        /* chunks */
    uint64_t out_length; /* bytes of theirs, decoded */
    unsigned calls;      /* of `done` that are under way */
    bool dry;            /* had no chunk when it was asked last */
    bool gone;           /* was taken away */
};

#define CHUNKS_OUT_MAX 4096u
/* However many share them. */
#define CHUNKS_OUT_LEAST 16u

/* Decoded bytes. A profile names neighbours at any time, so all of it is looked at together; what
 * is filled comes in order, and needs no more than to keep the ranges full. */
static const uint64_t most_out[SUPPLY_KINDS] = {
    [SUPPLY_PROFILE] = UINT64_C(1) << 30, [SUPPLY_FILL] = UINT64_C(32) << 20
};

static const enum urgency urgencies[SUPPLY_KINDS] = {
    [SUPPLY_PROFILE] = URGENCY_PROFILE, [SUPPLY_FILL] = URGENCY_FILL
};

static void unreference(struct supply *supply)
{
    if (--supply->references == 0) free(supply);
}

/* ---- asking ---- */

static uint64_t length_of(const struct supply_return *entry)
{
    const struct chunk_table *table = entry->device->table;
    return entry->chunk < table->chunk_count ? chunk_length(table, entry->chunk) : 0;
}

/* False: it has none for now. */
static bool take_chunk(struct supply *supply, enum urgency urgency, struct actions *actions)
{
    struct supply_return *owed = calloc(1, sizeof *owed);
    if (!owed) return false;
    if (!supply->from.next(supply->from.context, &owed->device, &owed->chunk)) {
        supply->dry = true;
        free(owed);
        return false;
    }
    owed->supply = supply;
    owed->urgency = urgency;
    supply->references++;
    supply->out++;
    supply->out_length += length_of(owed);
    device_busy(owed->device);
    chunk_owe(owed->device, owed, actions);
    return true;
}

/* What one supply may have out. */
struct share {
    unsigned chunks;
    uint64_t length;
};

static struct share share_of(const struct data_path *path, enum supply_kind kind)
{
    const struct supply *supply;
    unsigned sharers = 0;
    LIST_FOREACH(supply, &path->supplies[kind], link)
    sharers += !supply->dry;
    if (sharers == 0) sharers = 1;
    unsigned chunks = CHUNKS_OUT_MAX / sharers;
    return (struct share){ .chunks = chunks > CHUNKS_OUT_LEAST ? chunks : CHUNKS_OUT_LEAST,
                           .length = most_out[kind] / sharers };
}

/* One after another would come in small ranges, so none is taken until there is room for many. */
static void take_chunks(struct supply *supply, enum supply_kind kind, struct share share,
                        struct actions *actions)
{
    if (supply->dry || supply->out >= share.chunks / 2 || supply->out_length > share.length / 2)
        return;
    while (supply->out < share.chunks && supply->out_length < share.length &&
           take_chunk(supply, urgencies[kind], actions))
        continue;
}

void supply_take(struct data_path *path, struct actions *actions)
{
    struct supply *supply;
    for (enum supply_kind kind = 0; kind < SUPPLY_KINDS; kind++) {
        struct share share = share_of(path, kind);
        LIST_FOREACH(supply, &path->supplies[kind], link)
        take_chunks(supply, kind, share, actions);
    }
}

/* ---- ahead of readers ---- */

int supply_init_ahead(struct data_path *path, struct error **error)
{
    path->ahead = calloc(1, sizeof *path->ahead);
    if (!path->ahead) return error_set_memory(error);
    path->ahead->references = 1;
    return 0;
}

void supply_free_ahead(struct data_path *path)
{
    free(path->ahead);
}

void supply_name(struct layer_device *device, uint32_t chunk, struct actions *actions)
{
    struct supply *supply = device->path->ahead;
    if (chunk_state(device, chunk) == CHUNK_PRESENT || chunk_state(device, chunk) == CHUNK_READY)
        return;
    struct supply_return *owed = calloc(1, sizeof *owed);
    if (!owed) return; /* the reader will ask itself */
    *owed = (struct supply_return){
        .supply = supply, .device = device, .chunk = chunk, .urgency = URGENCY_AHEAD
    };
    supply->references++;
    supply->out++;
    supply->out_length += length_of(owed);
    device_busy(device);
    chunk_owe(device, owed, actions);
}

/* ---- giving back ---- */

void supply_give_back(struct supply_returns *owed, int result, struct actions *actions)
{
    struct supply_return *entry;
    STAILQ_FOREACH(entry, owed, link)
    entry->result = result;
    STAILQ_CONCAT(&actions->returns, owed);
}

static void release(struct supply_return *entry)
{
    entry->supply->out--;
    entry->supply->out_length -= length_of(entry);
    unreference(entry->supply);
    device_idle(entry->device);
    free(entry);
}

void supply_drop_gone(struct supply_returns *owed)
{
    struct supply_returns kept = STAILQ_HEAD_INITIALIZER(kept);
    struct supply_return *entry;
    while ((entry = STAILQ_FIRST(owed))) {
        STAILQ_REMOVE_HEAD(owed, link);
        if (entry->supply->gone)
            release(entry);
        else
            STAILQ_INSERT_TAIL(&kept, entry, link);
    }
    STAILQ_CONCAT(owed, &kept);
}

void supply_prepare_calls(struct supply_returns *returns)
{
    struct supply_return *entry;
    STAILQ_FOREACH(entry, returns, link)
    {
        entry->called = !entry->supply->gone && entry->supply->from.done;
        if (entry->called) entry->supply->calls++;
    }
}

void supply_call(const struct supply_returns *returns)
{
    const struct supply_return *entry;
    STAILQ_FOREACH(entry, returns, link)
    if (entry->called)
        entry->supply->from.done(entry->supply->from.context, entry->device, entry->chunk,
                                 entry->result);
}

void supply_called(struct data_path *path, struct supply_returns *returns)
{
    struct supply_return *entry;
    while ((entry = STAILQ_FIRST(returns))) {
        STAILQ_REMOVE_HEAD(returns, link);
        if (entry->called) entry->supply->calls--;
        release(entry);
    }
    pthread_cond_broadcast(&path->changed);
}

/* ---- adding and taking away ---- */

int data_path_add_supply(struct data_path *path, enum supply_kind kind,
                         const struct chunk_supply *supply, struct supply **ret,
                         struct error **error)
{
    struct supply *entry = calloc(1, sizeof *entry);
    if (!entry) return error_set_memory(error);
    entry->from = *supply;
    entry->references = 1;
    struct actions actions;
    data_path_enter(path, &actions);
    *ret = entry;
    LIST_INSERT_HEAD(&path->supplies[kind], entry, link);
    data_path_leave(path, &actions);
    return 0;
}

void data_path_remove_supply(struct data_path *path, struct supply *supply)
{
    struct actions actions;
    if (!supply) return;
    data_path_enter(path, &actions);
    LIST_REMOVE(supply, link);
    supply->gone = true;
    chunk_drop_unneeded(path, &actions);
    while (supply->calls > 0)
        pthread_cond_wait(&path->changed, &path->lock);
    unreference(supply);
    data_path_leave(path, &actions);
}

void supply_remove_all(struct data_path *path)
{
    for (enum supply_kind kind = 0; kind < SUPPLY_KINDS; kind++)
        while (!LIST_EMPTY(&path->supplies[kind]))
            data_path_remove_supply(path, LIST_FIRST(&path->supplies[kind]));
}

void supply_look_again(struct data_path *path)
{
    struct supply *supply;
    for (enum supply_kind kind = 0; kind < SUPPLY_KINDS; kind++)
        LIST_FOREACH(supply, &path->supplies[kind], link)
    supply->dry = false;
}

void data_path_wake(struct data_path *path)
{
    struct actions actions;
    data_path_enter(path, &actions);
    supply_look_again(path);
    data_path_leave(path, &actions);
}

/* ---- the bound of what is filled ---- */

/* So much of a second may be saved up. */
#define SAVED_DIVISOR 4u

static void count_time(struct fill_rate *rate)
{
    uint64_t now = clock_ms();
    uint64_t passed = now - rate->counted_at;
    int64_t most = (int64_t)(rate->bytes_per_second / SAVED_DIVISOR);
    if (passed > 10000) passed = 10000;
    rate->left += (int64_t)(rate->bytes_per_second * passed / 1000);
    if (rate->left > most) rate->left = most;
    rate->counted_at = now;
}

bool fill_rate_allows(struct data_path *path)
{
    struct fill_rate *rate = &path->fill_rate;
    if (rate->bytes_per_second == 0) return true;
    count_time(rate);
    if (rate->left >= 0) return true;
    uint64_t missing = (uint64_t)-rate->left;
    data_path_wake_at(path, rate->counted_at + missing * 1000 / rate->bytes_per_second + 1);
    return false;
}

void fill_rate_use(struct data_path *path, uint64_t bytes)
{
    if (path->fill_rate.bytes_per_second > 0) path->fill_rate.left -= (int64_t)bytes;
}

void data_path_set_fill_rate(struct data_path *path, uint64_t bytes_per_second)
{
    /* So that no arithmetic here can overflow; nothing is as fast. */
    const uint64_t most = UINT64_C(1) << 48;
    struct actions actions;
    data_path_enter(path, &actions);
    path->fill_rate =
        (struct fill_rate){ .bytes_per_second = bytes_per_second < most ? bytes_per_second : most,
                            .counted_at = clock_ms() };
    data_path_leave(path, &actions);
}
