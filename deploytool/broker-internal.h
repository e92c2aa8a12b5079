/*
 * What server and broker say to each other.
 *
 * A request is one message on the broker's socket (SOCK_SEQPACKET): a verb of one byte, text, and a
 * stream socket for the answer, so that answers come in any order, and who closes it has given up.
 * An answer is one byte, ANSWER_DONE or the kind of an error, then text until the end; with the
 * byte comes the FUSE connection's descriptor, if there is one.
 */
#ifndef SLUICE_DEPLOYTOOL_BROKER_INTERNAL_H
#define SLUICE_DEPLOYTOOL_BROKER_INTERNAL_H

#include <stddef.h>
#include <sys/types.h>

enum broker_verb {
    BROKER_MOUNT = 'm',       /* text: what the table of mounts shows as source */
    BROKER_TUNE = 't',        /* fuse_mount_tune() */
    BROKER_UNMOUNT = 'u',     /* what was mounted */
    BROKER_CREDENTIALS = 'c', /* text: a registry; the answer is registry_stored_credentials() */
};

#define BROKER_REQUEST_MAX 4096u
#define BROKER_ANSWER_MAX  (1u << 20)
#define BROKER_SOCKET      3 /* the broker's descriptor */
#define ANSWER_DONE        0

/* One message with a descriptor (or -1). 0, or -1 with errno; never SIGPIPE. */
int broker_send(int socket, const void *data, size_t length, int descriptor);
/* The length of the message (0: the other end is closed), or -1 with errno. *ret_descriptor is -1
 * where none came. */
ssize_t broker_receive(int socket, void *data, size_t capacity, int *ret_descriptor);

#endif
