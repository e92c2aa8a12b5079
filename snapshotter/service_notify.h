/* The service manager: telling it how a daemon is, and having it keep a descriptor while there is
 * no process of the service; sd_notify(3), sd_listen_fds(3). */
#ifndef SLUICE_SNAPSHOTTER_SERVICE_NOTIFY_H
#define SLUICE_SNAPSHOTTER_SERVICE_NOTIFY_H

#include <stdbool.h>

/* `state` is "READY=1", "STOPPING=1", "STATUS=..." and the like, a line each. Nothing happens where
 * no service manager asked for it (NOTIFY_SOCKET); that one cannot be reached is a line in the log.
 */
void service_notify(const char *state);

/* Asks it to keep a copy of `descriptor` for the next process, under a name without ':' and control
 * characters (FileDescriptorStoreMax= of the unit says how many it keeps). False where there is no
 * service manager to keep it. */
bool service_keep(const char *name, int descriptor);
/* What was kept under this name, for the caller to close; -1: nothing. All else that was kept goes.
 * `name` may be NULL. To be called once, before there are other threads and processes. */
int service_kept(const char *name);

#endif
