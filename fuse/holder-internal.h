/*
 * What holder and clients say: messages on a SOCK_SEQPACKET socket of struct sockaddr_un.
 *
 * A request is a verb, the length of a name, the name, and data, one byte each for the first two;
 * with it come descriptors. The answer is any number of HOLDER_ENTRY (formed like a request), then
 * HOLDER_DONE, or one byte with the kind of an error and its text.
 *
 * HOLDER_TAKE_OVER is answered with all entries and HOLDER_SOCKETS, which brings the listening
 * socket and the lock beside it. Who has them says HOLDER_TAKEN; then the one before ends.
 */
#ifndef SLUICE_FUSE_HOLDER_INTERNAL_H
#define SLUICE_FUSE_HOLDER_INTERNAL_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/descriptor_message.h"
#include "fuse/holder.h"

enum holder_verb {
    HOLDER_PUT = 'p',
    HOLDER_GET = 'g',
    HOLDER_DROP = 'd',
    HOLDER_LIST = 'l',
    HOLDER_ABORT = 'a',
    HOLDER_TAKE_OVER = 't',
    HOLDER_TAKEN = 'k',
    HOLDER_ENTRY = 'e',
    HOLDER_SOCKETS = 's',
};

#define HOLDER_DONE        0
#define HOLDER_HEADER      2u
#define HOLDER_MESSAGE_MAX (HOLDER_HEADER + HOLDER_NAME_MAX + HOLDER_DATA_MAX)

/* holder_message.c */
struct holder_message {
    uint8_t bytes[HOLDER_MESSAGE_MAX];
    size_t length;
    int descriptors[HOLDER_DESCRIPTORS_MAX]; /* borrowed when sent, owned when received */
    size_t descriptor_count;
};

/* 0, or -1 with errno. */
int holder_message_send(int socket, const struct holder_message *message);
/* 1, 0 at the end of the connection, -1 with errno. */
int holder_message_receive(int socket, struct holder_message *ret);
void holder_message_close(struct holder_message *message);
/* Forms a request or an entry; its limits are checked here. */
int holder_message_form(struct holder_message *ret, enum holder_verb verb, const char *name,
                        const void *data, size_t length, struct error **error);
/* Takes name, data and descriptors out. */
int holder_message_parse(struct holder_message *message, struct holder_entry *ret,
                         struct error **error);
int holder_address(struct sockaddr_un *ret, const char *path, struct error **error);
/* Connects; sends and receives on it end after five seconds, with EAGAIN. */
int holder_socket_connect(const char *path, struct error **error);
/* The error of an answer that is neither HOLDER_ENTRY nor HOLDER_DONE. */
int holder_answer_error(const struct holder_message *answer, struct error **error);

/* holder_entries.c: what is held. */
struct holder_entries {
    struct holder_entry **entries; /* in no order */
    size_t count, capacity;
};

struct holder_entry *holder_entries_find(const struct holder_entries *entries, const char *name);
/* Takes what is in `entry`, also when it fails. */
int holder_entries_put(struct holder_entries *entries, struct holder_entry *entry,
                       struct error **error);
void holder_entries_drop(struct holder_entries *entries, const char *name);
void holder_entries_clear(struct holder_entries *entries);
/* Forms the message for an entry; borrows its descriptors. */
void holder_entry_form(struct holder_message *ret, const struct holder_entry *entry);

/* holder_socket.c: the place that clients know. */
struct holder_place {
    int listener, lock;
    int before; /* to the holder that had the place, which ends when this is closed; or -1 */
};

/* Listens; error where another holder does. */
int holder_place_make(struct holder_place *ret, const char *path, struct error **error);
/* Takes the place and all that is held over from the holder that is there. */
int holder_place_take_over(struct holder_place *ret, const char *path,
                           struct holder_entries *entries, struct error **error);

#endif
