/* What a server of a connection does with the journal. Requests are those of <linux/fuse.h>, whole:
 * they begin with struct fuse_in_header. */
#ifndef SLUICE_FUSE_REQUEST_JOURNAL_INTERNAL_H
#define SLUICE_FUSE_REQUEST_JOURNAL_INTERNAL_H

#include <linux/fuse.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fuse/request_journal.h"

/* <linux/fuse.h> since 7.40: set in `unique` of a request that was sent before. */
#ifndef FUSE_UNIQUE_RESEND
#define FUSE_UNIQUE_RESEND (UINT64_C(1) << 63)
#endif

enum slot_state {
    SLOT_FREE,
    SLOT_CLAIMED, /* is being filled */
    SLOT_SERVED,  /* in flight */
    SLOT_HELD,    /* a suspect that waits for its turn */
    SLOT_TRIED,   /* a suspect whose turn it is: what kills the server now */
    SLOT_AWAITED, /* was in flight in a server that died, and has not been seen since */
};

/* The longest request of a read-only file system is an extended attribute's: header, struct and
 * name. */
#define SLOT_REQUEST_MAX 344u

struct journal_slot {
    _Atomic uint32_t state;
    uint16_t length; /* of the request */
    uint8_t crashes, kills;
    _Atomic uint64_t connection;
    _Atomic uint64_t unique; /* without the mark of a resend */
    uint32_t servers;        /* that ended while it was awaited */
    uint32_t unused;
    _Alignas(8) uint8_t request[SLOT_REQUEST_MAX];
};

enum request_verdict {
    REQUEST_SERVE,
    REQUEST_HOLD,    /* give it to request_journal_hold() */
    REQUEST_GIVE_UP, /* answer EIO */
};

/* Memory of SLOT_REQUEST_MAX bytes into which one thread has the kernel write requests, so that
 * there is no moment at which the journal does not know of one. NULL: none is left. Its first
 * struct fuse_in_header is zeroed whenever what came is in the journal by other means. */
void *request_journal_take_area(struct request_journal *journal, uint64_t connection);
/* NULL is fine. */
void request_journal_return_area(void *area);

/* Before a request is served. `again`: it comes from request_journal_unanswered(), else its mark
 * tells. */
enum request_verdict request_journal_enter(struct request_journal *journal, uint64_t connection,
                                           const void *request, size_t length, bool again);
/* Once it was answered. `unique` as in the answer. */
void request_journal_leave(struct request_journal *journal, uint64_t connection, uint64_t unique);

/* `serve` is called, on a thread of the journal's own, once no other suspect is being served. The
 * request is copied. */
typedef void request_serve(void *context, const void *request, size_t length);
int request_journal_hold(struct request_journal *journal, uint64_t connection, const void *request,
                         size_t length, request_serve *serve, void *context);
/* Forgets suspects of a connection that wait, and waits for the end of `serve`. */
void request_journal_drop(struct request_journal *journal, uint64_t connection);

/* Calls `serve` with every request that the server before had, and has not been seen since. -1: it
 * could not note all, or cannot have noted this one whole. */
int request_journal_unanswered(struct request_journal *journal, uint64_t connection,
                               request_serve *serve, void *context);

/* suspects.c: the thread. */
struct suspects;
struct suspects *suspects_new(struct request_journal *journal);
int suspects_add(struct suspects *suspects, uint64_t connection, const void *request, size_t length,
                 request_serve *serve, void *context);
void suspects_drop(struct suspects *suspects, uint64_t connection);
void suspects_free(struct suspects *suspects);
/* A suspect's turn: its state goes from SLOT_HELD by SLOT_TRIED to SLOT_SERVED. */
void request_journal_set_state(struct request_journal *journal, uint64_t connection,
                               uint64_t unique, enum slot_state from, enum slot_state to);
bool request_journal_has(struct request_journal *journal, uint64_t connection, uint64_t unique);

#endif
