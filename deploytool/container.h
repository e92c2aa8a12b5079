/*
 * One program in a directory that holds a tree, by runc(8) or crun(1): in namespaces of its own,
 * with the capabilities that an ordinary container has less those that make devices, and none that
 * a set-user-id program would add.
 */
#ifndef SLUICE_DEPLOYTOOL_CONTAINER_H
#define SLUICE_DEPLOYTOOL_CONTAINER_H

#include <signal.h>
#include <stdbool.h>

#include "base/error.h"
#include "index/image_process.h"

struct container_options {
    const char *root;      /* the tree, writable; absolute */
    const char *directory; /* an empty one for what the runtime needs; absolute */
    const struct image_process *process;
    bool own_network;         /* else the machine's */
    bool output_to_error;     /* what it writes to standard output goes to standard error */
    unsigned timeout_seconds; /* then it is asked to end, and ended; 0: none */
};

struct container_result {
    bool timed_out;
    bool interrupted; /* this process was asked to end, and ended the program */
    int exit_code;    /* as a shell tells it: 128 and the signal's number */
};

/* Whether there is a runtime. */
int container_check(struct error **error);
/* By which people and systems ask for a program's end. */
sigset_t container_end_signals(void);
/* Runs it to its end; nothing of it is left. The directory is made where it is missing. */
int container_run(const struct container_options *options, struct container_result *ret,
                  struct error **error);
/* What is left of a container_run() whose process was killed, if anything; `directory` is that of
 * its options. */
void container_remove(const char *directory);

#endif
