/*
 * What servers ask of who keeps the privileges, by node/question.h. A request's text is a verb of
 * one byte, the number of the mount that it is about (decimal; 0 where there is only one), a blank,
 * and text.
 *
 * What the kernel is to mount follows its request on the socket for the answer, a byte for each
 * file: the metadata (TREE_FILE with a descriptor), each device (that, or TREE_DEVICE_MOUNT), and
 * TREE_END.
 */
#ifndef SLUICE_NODE_BROKER_INTERNAL_H
#define SLUICE_NODE_BROKER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

enum broker_verb {
    BROKER_MOUNT = 'm',       /* text: what the table of mounts shows as source */
    BROKER_DEVICES = 'd',     /* device_mount_attach() */
    BROKER_KERNEL = 'k',      /* erofs_mount_attach(); text: as for BROKER_MOUNT */
    BROKER_TUNE = 't',        /* text: readahead in KiB */
    BROKER_UNMOUNT = 'u',     /* what was mounted */
    BROKER_CREDENTIALS = 'c', /* text: credentials_question_format(); answer: credentials_write() */
    BROKER_GONE = 'g',        /* the mount is not served any more (many mounts only) */
};

enum tree_item { TREE_FILE = 'f', TREE_DEVICE_MOUNT = 'd', TREE_END = '.' };

struct broker_request {
    enum broker_verb verb;
    uint64_t mount;
    const char *text; /* borrowed */
};

/* False: it is none. */
bool broker_request_read(const char *text, struct broker_request *ret);

#endif
