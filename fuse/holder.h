/*
 * The holder: a small process that keeps descriptors, and what belongs to them, for one that may
 * crash or be restarted. A FUSE connection lives as long as somebody has its descriptor, so the
 * readers of a connection that is held wait for its next server, and notice nothing else.
 *
 * What is held has a name, data and up to HOLDER_DESCRIPTORS_MAX descriptors. It stays until it is
 * dropped, or until no client has been connected for the holder's time of grace.
 */
#ifndef SLUICE_FUSE_HOLDER_H
#define SLUICE_FUSE_HOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"

#define HOLDER_SOCKET          "/run/sluice/holder.sock"
#define HOLDER_NAME_MAX        255u
#define HOLDER_DATA_MAX        (64u << 10)
#define HOLDER_DESCRIPTORS_MAX 4u
#define HOLDER_ENTRIES_MAX     4096u
#define HOLDER_GRACE_SECONDS   120u

/* ---- for who has something to be held ---- */

struct holder_entry {
    char name[HOLDER_NAME_MAX + 1];
    struct buffer data;
    int descriptors[HOLDER_DESCRIPTORS_MAX]; /* owned */
    size_t descriptor_count;
};

/* Closes what was not taken out (set to -1). */
void holder_entry_free(struct holder_entry *entry);

struct holder_client;

/* ERROR_UNREACHABLE where nobody listens. The holder counts the client as long as it is connected.
 * Each call below connects anew, once, where the connection has ended, for another holder may have
 * taken over; waits for an answer for five seconds at most (EAGAIN); any thread may call. */
int holder_connect(struct holder_client **ret, const char *socket, struct error **error);
/* Instead of what has that name now. Nothing is taken over: the holder has copies. */
int holder_put(struct holder_client *client, const char *name, const void *data, size_t length,
               const int *descriptors, size_t descriptor_count, struct error **error);
/* ERROR_NOT_FOUND where there is none. */
int holder_get(struct holder_client *client, const char *name, struct holder_entry *ret,
               struct error **error);
/* That there is none is fine. */
int holder_drop(struct holder_client *client, const char *name, struct error **error);
/* Everything, in fresh memory. */
int holder_list(struct holder_client *client, struct holder_entry **ret, size_t *ret_count,
                struct error **error);
void holder_entries_free(struct holder_entry *entries, size_t count);
/* For poll(2): POLLHUP once the holder has ended or was replaced, until the next call. */
int holder_client_descriptor(const struct holder_client *client);
/* NULL is fine. */
void holder_disconnect(struct holder_client *client);
/* Tells the holder to close everything and to end. */
int holder_abort(struct holder_client *client, struct error **error);

/* ---- the process ---- */

struct holder_options {
    const char *socket;
    unsigned grace_seconds;
    bool take_over;     /* from the holder that is there, if any, with all it has and its socket */
    bool end_when_idle; /* nothing is held, and nobody was connected for the time of grace */
};

/* Holds. `ready` is called once clients can connect; it may fork, and go on in the child. Returns
 * once it was told to end: by SIGTERM or SIGINT as soon as nothing is held any more, by
 * holder_abort(), or because another one has taken over. SIGHUP is nothing. To be called before
 * there is a second thread. */
int holder_run(const struct holder_options *options, int (*ready)(void *context), void *context,
               struct error **error);

#endif
