/* Telling the service manager how a daemon is: sd_notify(3). */
#ifndef SLUICE_SNAPSHOTTER_SERVICE_NOTIFY_H
#define SLUICE_SNAPSHOTTER_SERVICE_NOTIFY_H

/* `state` is "READY=1", "STOPPING=1", "STATUS=..." and the like, a line each. Nothing happens where
 * no service manager asked for it (NOTIFY_SOCKET); that one cannot be reached is a line in the log.
 */
void service_notify(const char *state);

#endif
