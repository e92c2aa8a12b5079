/*
 * Gives up what the server does not need, before it reads the first byte from outside: every
 * capability, programs that raise privileges, system calls that a server of files has no use for,
 * and writing anywhere but in its own directories. What the kernel lacks is left out.
 */
#ifndef SLUICE_BASE_CONFINE_H
#define SLUICE_BASE_CONFINE_H

#include <stdbool.h>
#include <stddef.h>

/* What is in force. */
struct confinement {
    bool capabilities;      /* there are none, and none can come back */
    bool no_new_privileges; /* prctl(2) PR_SET_NO_NEW_PRIVS */
    bool system_calls;      /* seccomp(2): no exec, mount, ptrace, kernel modules ... */
    bool files;             /* landlock(7): no exec, no writing outside of the directories */
};

/* For this thread and those that it starts from now on: called while it is the only one. It may
 * write below the `count` directories, which exist. */
void confine_process(const char *const *directories, size_t count, struct confinement *ret);

#endif
