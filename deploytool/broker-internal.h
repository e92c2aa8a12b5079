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

#endif
