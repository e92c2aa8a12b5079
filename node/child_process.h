/* This program (or another) once more, by another name, with sockets to talk to it. */
#ifndef SLUICE_NODE_CHILD_PROCESS_H
#define SLUICE_NODE_CHILD_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* What the child finds its first socket at; the others follow. */
#define CHILD_FIRST_SOCKET 3

struct child_process {
    const char *program; /* NULL: this one */
    char *const *arguments;
    const int *sockets;
    size_t socket_count;
    bool keeps_errors; /* its standard error is ours */
};

/* Nothing but the sockets comes with it. */
int child_process_start(pid_t *ret, const struct child_process *child, struct error **error);
/* For the child: whether a descriptor is a socket, as it is where we have started it; and keeps it
 * from what the child starts. */
bool child_process_take_socket(int descriptor);
/* For the child: what ps, top and the journal call it, and each of its threads that starts later.
 * The kernel has it from the file's name, which is "exe" where the program is this one. */
void child_process_show_name(const char *name);

#endif
