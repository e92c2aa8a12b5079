/*
 * What server and broker say to each other.
 *
 * A request is one message on the broker's socket (SOCK_SEQPACKET): a verb of one byte, text, and a
 * stream socket for the answer, so that answers come in any order, and who closes it has given up.
 * An answer is one byte, ANSWER_DONE or the kind of an error, then text until the end; with the
 * byte comes a descriptor, if there is one.
 *
 * What the kernel is to mount follows its request on the socket for the answer, a byte for each
 * file: the metadata (TREE_FILE with a descriptor), each device (that, or TREE_DEVICE_MOUNT), and
 * TREE_END.
 */
#ifndef SLUICE_NODE_BROKER_INTERNAL_H
#define SLUICE_NODE_BROKER_INTERNAL_H

enum broker_verb {
    BROKER_MOUNT = 'm',       /* text: what the table of mounts shows as source */
    BROKER_DEVICES = 'd',     /* device_mount_attach() */
    BROKER_KERNEL = 'k',      /* erofs_mount_attach(); text: as for BROKER_MOUNT */
    BROKER_TUNE = 't',        /* text: readahead in KiB */
    BROKER_UNMOUNT = 'u',     /* what was mounted */
    BROKER_CREDENTIALS = 'c', /* text: credentials_question_format(); answer: credentials_write() */
};

enum tree_item { TREE_FILE = 'f', TREE_DEVICE_MOUNT = 'd', TREE_END = '.' };

#define BROKER_REQUEST_MAX 4096u
#define BROKER_ANSWER_MAX  (1u << 20)
#define BROKER_SOCKET      3 /* the broker's descriptor */
#define ANSWER_DONE        0

#endif
