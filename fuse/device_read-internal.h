/* Reads that wait: device_read.c, and read_load.c for what is in the cache file. */
#ifndef SLUICE_FUSE_DEVICE_READ_INTERNAL_H
#define SLUICE_FUSE_DEVICE_READ_INTERNAL_H

#include <sys/queue.h>

#include "fuse/layer_device.h"

struct actions;
struct active_chunk;
struct chunk_bytes;

#define DEVICE_READ_MAX (4u << 20)

struct read_piece {
    struct device_read *read;
    uint32_t chunk;
    struct active_chunk *awaits; /* while waiting */
    struct chunk_bytes *bytes;   /* NULL when not waiting: the chunk is in the cache file ... */
    uint32_t generation;         /* ... in this generation */
    TAILQ_ENTRY(read_piece) waiter;
};

enum read_state {
    READ_WAITING,   /* for chunks */
    READ_QUEUED,    /* all chunks are here; waits for memory to load some from disk */
    READ_LOADING,   /* is with the cache */
    READ_FINISHING, /* being answered */
};

struct device_read {
    struct layer_device *device;
    struct device_reader *reader; /* not to be looked at once it is answered; or NULL */
    uint64_t offset;
    size_t length;      /* asked for */
    size_t data_length; /* that lie within the stream */
    device_read_done *done;
    void *context;
    enum read_state state;
    uint64_t deadline;               /* milliseconds, CLOCK_MONOTONIC */
    unsigned references;             /* two while a read that is loading is answered by the timer */
    bool expired;                    /* was answered by the timer */
    bool missed;                     /* had to wait for the registry */
    uint32_t waiting;                /* pieces */
    uint8_t *buffer;                 /* READ_LOADING */
    uint32_t load_first, load_end;   /* pieces that are with the cache */
    TAILQ_ENTRY(device_read) parked; /* until FINISHING or expired */
    TAILQ_ENTRY(device_read) queue;  /* QUEUED */
    STAILQ_ENTRY(device_read) action;
    uint32_t piece_count;
    struct read_piece pieces[];
};

TAILQ_HEAD(read_queue, device_read);

void read_park(struct layer_device *device, struct device_reader *reader, uint64_t offset,
               size_t length, size_t data_length, uint32_t first_chunk, uint32_t last_chunk,
               device_read_done *done, void *context);
/* Under the lock. */
void read_await(struct device_read *read, struct actions *actions);
void read_unreference(struct device_read *read, struct actions *actions);
void read_piece_is_here(struct read_piece *piece, struct actions *actions);
void read_fail(struct device_read *read, struct actions *actions);
/* Milliseconds since it was parked. */
uint64_t read_has_waited(const struct device_read *read);
/* Too little time is left for another range. */
bool read_is_nearly_over(const struct device_read *read);
/* Ends the parked reads whose time is over. */
void read_expire_due(struct data_path *path, struct actions *actions);
void read_start_loads(struct data_path *path, struct actions *actions);
/* Without the lock. */
void read_answer(struct device_read *read);
void read_answer_failure(struct device_read *read);
void read_answer_expired(struct device_read *read);
void read_load(struct device_read *read);
void read_release(struct device_read *read);
void read_reply(const struct device_read *read, const void *data, ssize_t result);
/* Where the piece is in its chunk and in the read. */
void read_piece_range(const struct read_piece *piece, size_t *ret_in_chunk, size_t *ret_in_read,
                      size_t *ret_length);
/* The pieces that are in memory, and the zeros behind the stream's end. */
void read_copy_pieces(const struct device_read *read, uint8_t *buffer);

#endif
