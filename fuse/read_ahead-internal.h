/* Which chunks a reader who goes forward will want next. */
#ifndef SLUICE_FUSE_READ_AHEAD_INTERNAL_H
#define SLUICE_FUSE_READ_AHEAD_INTERNAL_H

#include <stdatomic.h>
#include <stdint.h>

struct actions;
struct layer_device;

/* One who goes forward through a layer. */
struct ahead_reader {
    uint32_t next;         /* behind the last chunk that it touched; 0: there is no such reader */
    uint32_t end;          /* chunks before it were touched or fetched ahead */
    uint64_t window;       /* bytes of the stream that are fetched ahead next; 0: one chunk */
    _Atomic uint32_t mark; /* the chunk at which they are; 0: none */
    uint64_t heard_of;     /* in the order of reads */
};

#define AHEAD_READERS 4u

/* Under the lock: a read of chunks first to last waits for the registry. */
void ahead_missed(struct layer_device *device, uint32_t first, uint32_t last,
                  struct actions *actions);
/* Under the lock: it does not. */
void ahead_found(struct layer_device *device, uint32_t first, uint32_t last,
                 struct actions *actions);
/* The same without the lock. */
void ahead_hit(struct layer_device *device, uint32_t first, uint32_t last);

#endif
