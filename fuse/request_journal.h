/*
 * The requests of FUSE connections that are not answered yet, in memory that outlives its server: a
 * memfd that somebody else keeps too. The next server learns from it
 *
 * - which requests were there when servers died, so that one that kills servers is given up,
 * - what to answer where the kernel does not send requests again (before Linux 6.9).
 *
 * One journal serves all connections of a process. Entering and leaving it takes no lock and no
 * system call.
 *
 * A request counts as a suspect once it has been there at one death less than it is given up for.
 * Suspects are served one at a time, so that the one is found and others that only waited beside it
 * are answered.
 */
#ifndef SLUICE_FUSE_REQUEST_JOURNAL_H
#define SLUICE_FUSE_REQUEST_JOURNAL_H

#include <stdbool.h>

#include "base/error.h"

struct request_journal;

/* How the server before this one ended. */
enum server_end {
    SERVER_ENDED,   /* by itself */
    SERVER_KILLED,  /* by SIGKILL: somebody restarts it, or the kernel is out of memory */
    SERVER_CRASHED, /* by any other signal, by an exit of its own that was not asked for, or it hung
                     */
};

/* Deaths that a request survives are fewer than these. Being killed says little of a request, and
 * those who kill servers again and again are mostly tests. */
#define REQUEST_CRASHES_MAX 3u
#define REQUEST_KILLS_MAX   100u

/* Memory for a journal: for who starts servers. Its descriptor, or -1. */
int request_journal_make(struct error **error);
/* Whether it is memory of this version's journal. */
bool request_journal_fits(int memory);
/* Goes on where the server before has ended, or begins, with memory that is taken over, also when
 * it fails. Waits up to ten seconds for the end of that server's last thread, of one that was
 * killed up to a minute: it may wait for a disk. What the memory holds
 * is not believed where it makes no sense: that server may have crashed. */
int request_journal_open(struct request_journal **ret, int memory, enum server_end end,
                         struct error **error);
/* Once no connection uses it. The memory stays as it is where others have it. No other descriptor
 * of it may be closed in this process before, for that would end its claim (fcntl(2), F_SETLK).
 * NULL is fine. */
void request_journal_free(struct request_journal *journal);

#endif
